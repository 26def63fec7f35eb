"""What a Slurm task tells torch.distributed. The same with a real Slurm: tests/cluster/."""

from __future__ import annotations

import pytest

from launch.rank import rank_environment, tasks_per_node


@pytest.mark.parametrize(("text", "tasks"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,3(x2)", [1, 3, 3])])
def test_tasks_per_node(text: str, tasks: list[int]) -> None:
    assert tasks_per_node(text) == tasks


def test_outside_of_srun() -> None:
    with pytest.raises(ValueError, match=r"not a task of srun .*; start it by slurm/\*\.sh or launch\.submit"):
        rank_environment({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"})

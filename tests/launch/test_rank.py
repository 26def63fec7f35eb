"""What a Slurm task tells torch.distributed. The same with a real Slurm: tests/cluster/."""

from __future__ import annotations

import sys

import pytest
from small_world import call_anew

from launch.rank import local_rank, rank_environment, tasks_per_node


@pytest.mark.parametrize(("text", "tasks"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,3(x2)", [1, 3, 3])])
def test_tasks_per_node(text: str, tasks: list[int]) -> None:
    assert tasks_per_node(text) == tasks


def test_outside_of_srun() -> None:
    with pytest.raises(ValueError, match=r"not a task of srun .*; start it by slurm/\*\.sh or launch\.submit"):
        rank_environment({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"})


@pytest.mark.parametrize(("visible", "expected"), [("3", "0"), ("0,1,2,3", "2"), ("", "2")])
def test_a_task_that_sees_its_own_gpu_only_takes_the_first_it_sees(visible: str, expected: str) -> None:
    assert local_rank({"SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": visible}) == expected


def test_a_task_looks_for_no_garbage_among_what_it_begins_with() -> None:
    """See tbps/training/importing.py. Outside of srun it ends at once."""
    script = "import gc; from launch.rank import run_task; print(run_task(['recipe.py']), gc.get_freeze_count() > 0)"
    done = call_anew(sys.executable, "-c", script)
    assert done.stdout == "2 True\n", done.stdout + done.stderr

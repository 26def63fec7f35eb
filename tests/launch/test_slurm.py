"""What sinfo says, and which requests could never start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.site import Site
from launch.slurm import Partition, check_request, read_partitions

SINFO = """\
main*|3|gpu:4|infinite
main*|1|gpu:a100:8(S:0-1),shard:16|infinite
short|4|(null)|1:00:00
"""
KNOWN = read_partitions(SINFO)


def test_lines_of_one_partition_are_added_up() -> None:
    assert {
        "main": Partition(nodes=4, gpus_per_node=8, time_limit_min=None, is_default=True),
        "short": Partition(nodes=4, gpus_per_node=0, time_limit_min=60, is_default=False),
    } == KNOWN


def test_what_fits_is_let_through() -> None:
    check_request(Site(nodes=4, gpus_per_node=8), KNOWN)
    check_request(Site(partition="short", gpu_request="", nodes=4, gpus_per_node=2, time="1:00:00"), KNOWN)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"partition": "gpu"}, "partition 'gpu' is not known to Slurm, expected one of main, short"),
        ({"nodes": 5}, "5 nodes are asked for, partition main has 4"),
        ({"gpus_per_node": 9}, "9 GPUs are asked for on each node, the largest node of partition main has 8"),
        ({"partition": "short", "gpu_request": "", "time": "2:00:00"}, "2:00:00 is 120 min, partition short allows 60 min"),
    ],
)
def test_what_can_never_start_is_one_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_request(replace(Site(), **changes), KNOWN)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_without_a_default_partition_one_must_be_chosen() -> None:
    with pytest.raises(ValueError, match="no default partition; choose one of short with --partition"):
        check_request(Site(), {"short": KNOWN["short"]})

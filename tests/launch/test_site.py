"""Cluster settings: what a file may hold, and which wins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from launch.accelerate_settings import settings_file
from launch.site import CLUSTERS, Site, add_options, minutes_of, read_site, site_from


def given(*words: str) -> Site:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return site_from(parser.parse_args(words))


@pytest.mark.parametrize("file", sorted(CLUSTERS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_file_is_read(file: Path) -> None:
    assert read_site(file.stem).num_processes >= 1
    assert settings_file(read_site(file.stem).accelerate).is_file()


def test_the_command_line_wins_over_the_file() -> None:
    site = given("--cluster", "testbed", "--nodes", "3", "--gpus-per-node", "2", "--time", "1-0", "--partition", "urgent")
    assert (site.partition, site.accelerate, site.num_processes, site.time) == ("urgent", "cpu", 6, "1-0")
    assert given("--cluster", "testbed").partition == "main"


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("12:00", 12), ("0:01", 1), ("12:00:00", 720), ("1-0", 1440), ("2-3:30", 3090), ("1-0:0:1", 1441)],
)
def test_time_is_read_as_slurm_reads_it(time: str, minutes: int) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: gpu", "sets 'partitoin', expected one of partition, account"),
        ("time: 12:30:00", "sets time to 45000, expected text; put it in quotes"),
        ("nodes: two", "sets nodes to 'two', expected a whole number"),
        ("- a", "holds list, expected settings such as"),
        ("partition: [", "is not valid YAML: "),
        ('time: "soon"', "the time limit is 'soon', expected M, M:S"),
        ('time: "1:00"', "signal_delay_s is 120 and the time limit 1:00 is 1 min"),
        ("nodes: 0", "nodes is 0, expected a whole number of at least 1"),
        ("setup: module load", "sets setup to 'module load', expected a list"),
        ('account: "a\\n#SBATCH --qos=x"', "expected one line of printable characters"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"ours\.yaml.*") as caught:
        read_site("ours", tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"cluster 'mars' is not known, expected one of example, testbed"):
        given("--cluster", "mars")
    with pytest.raises(ValueError, match=r"Accelerate settings 'zero9' not found; expected a file, or one of .*zero2"):
        given("--accelerate", "zero9")

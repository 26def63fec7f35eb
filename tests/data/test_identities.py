"""The number of training identities: counted, agreed upon, said where the file's ids have gaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
from tiny_folder import MAIN_FILE, make_data, write_folder

from recipes import mars
from tbps.data.identities import agree_on_identities, classes_in_words
from tbps.data.pairs import open_pairs
from tbps.data.shard_writer import write_shards
from tbps.training.distributed import Team

T = TypeVar("T")


@dataclass(frozen=True)
class OtherTeam:
    """Of which the other process found something else."""

    other: object
    rank: int = 0
    size: int = 2

    def together(self, function: Callable[[], T], *, doing: str) -> list[T]:
        return [function(), self.other]  # type: ignore[list-item]


def test_the_number_is_filled_in_and_must_be_the_one_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards")
    for root in ("folder", "shards"):
        data = make_data(tmp_path / root)
        assert agree_on_identities(data, Team.current()) == replace(data, num_identities=5)
    assert caplog.text.count("5 training identities, classes 0 to 4\n") == 2  # ids are 1 to 5 there
    limited = make_data(tmp_path / "folder", limit_pairs=6)
    assert agree_on_identities(limited, Team.current()).num_identities == 2
    with pytest.raises(ValueError, match=r"the training pairs show 5 identities, expected 6; change data.root, or"):
        agree_on_identities(replace(data, num_identities=6), Team.current())
    with pytest.raises(ValueError, match=r"the processes find 4, 5 training identities in .*, expected one number"):
        agree_on_identities(data, OtherTeam(4))


def test_ids_with_gaps_are_counted_anew_and_it_is_said(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "icfg-pedes")
    for row in rows:
        row["id"] = 7 * row["id"] + 3
    (tmp_path / MAIN_FILE["icfg-pedes"]).write_text(json.dumps(rows))
    source = open_pairs(make_data(tmp_path, "icfg-pedes"))
    assert sorted(set(source.identity_N.tolist())) == [0, 1, 2, 3, 4]
    assert classes_in_words(source) == (
        "5 training identities, classes 0 to 4: the ids as annotated, 3 to 31, have gaps and are counted anew,"
        " in the order of the annotations"
    )
    for row in rows:
        row["id"] = f"person {row['id']}"
    (tmp_path / MAIN_FILE["icfg-pedes"]).write_text(json.dumps(rows))
    assert open_pairs(make_data(tmp_path, "icfg-pedes")).annotated_range is None


def test_a_number_that_the_method_does_not_read_is_refused() -> None:
    run = mars.tiny()
    with pytest.raises(ValueError, match=r"data.num_identities is 3, and Mars has no classes of identities; expected 0"):
        replace(run, data=replace(run.data, num_identities=3))

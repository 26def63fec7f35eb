import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_folder import write_folder

from tbps.data.annotations import read_annotations
from tbps.data.official_split import OFFICIAL

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def official_rows() -> Rows:
    """Rows of the published number for each id in its order, as `caption_all.json` has them: without `split`."""
    rows: Rows = []
    first_id = 1
    for counts in OFFICIAL["cuhk-pedes"].values():
        assert counts.identities and counts.images
        for number in range(counts.images):
            identity = first_id + number % counts.identities
            rows.append({"id": identity, "file_path": f"cam_a/{len(rows)}.png", "captions": ["A man.", "A person."]})
        first_id += counts.identities
    return rows


def test_the_official_split_follows_from_the_ids(
    official_rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "caption_all.json").write_text(json.dumps(official_rows))
    with caplog.at_level(logging.INFO):
        annotations = read_annotations(tmp_path, "cuhk-pedes")
    for name, counts in OFFICIAL["cuhk-pedes"].items():
        split = annotations.split(name)
        assert (split.num_identities, len(split.image_path)) == (counts.identities, counts.images)
    assert [annotations.ids[name][0] for name in ("train", "val", "test")] == ["1", "11004", "12004"]
    assert (
        "caption_all.json names no split: the official one follows from its ids, and has the published sizes" in caplog.text
    )


def _without_last_person(rows: Rows) -> Rows:
    return [row for row in rows if row["id"] != 13_003]


def _without_one_image(rows: Rows) -> Rows:
    return rows[1:]


def _counted_from_zero(rows: Rows) -> Rows:
    return [{**row, "id": row["id"] - 1} for row in rows]


def _val_after_test(rows: Rows) -> Rows:
    moved = {identity: identity + (1000 if identity <= 12_003 else -1000) for identity in range(11_004, 13_004)}
    return [{**row, "id": moved.get(row["id"], row["id"])} for row in rows]


@pytest.mark.parametrize("change", [_without_last_person, _without_one_image, _counted_from_zero, _val_after_test])
def test_no_split_is_guessed(change: Any, official_rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "caption_all.json").write_text(json.dumps(change(official_rows)))
    with pytest.raises(
        ValueError,
        match=r"caption_all.json has no field 'split', and the official split cannot be told from its ids: .*; take"
        r" reid_raw.json, or add 'split' to each row",
    ):
        read_annotations(tmp_path, "cuhk-pedes")


def test_other_data_sets_need_their_splits(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "rstpreid")
    for row in rows:
        del row["split"]
    (tmp_path / "data_captions.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"data_captions.json, row 1: no field 'split', found 'captions', 'img_path', 'id'"):
        read_annotations(tmp_path, "rstpreid")

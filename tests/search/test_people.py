"""People are cut out of whole frames by a detector of torchvision, each a row with frame and box, like any picture since."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from indexing import bring_up_to_date, content, in_a_process
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_world import assert_one_sentence
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, ssdlite320_mobilenet_v3_large
from toy_detector import NAME, make_frame
from toy_video import write_video

from tbps.command import main
from tbps.search import people
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.people import Detector, load_detector
from tbps.search.query import Part, Query
from tbps.search.searcher import Searcher

CPU = torch.device("cpu")
pytestmark = pytest.mark.xdist_group("people in frames")  # the detector is made once


@pytest.fixture(scope="module")
def index(frames: Path, model: SearchModel, detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the frames."""
    folder = tmp_path_factory.mktemp("people") / "index"
    bring_up_to_date(frames, folder, model, detector=detector)
    return folder


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache
def _network(weights: str) -> nn.Module:
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=2).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def found_by(weights: str, frame_HWC: NDArray[np.uint8], *, score: float = 0.7, height_px: int = 48) -> list[list[int]]:
    """What torchvision's own network says of a frame, rounded outwards, in its own order."""
    with torch.no_grad():
        said = _network(weights)([torch.from_numpy(frame_HWC.copy()).permute(2, 0, 1) / 255.0])[0]
    boxes = []
    for box, label, sure in zip(said["boxes"].numpy(), said["labels"], said["scores"], strict=True):
        left, top, right, bottom = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
        if label == 1 and sure >= score and bottom - top >= height_px and right - left >= 8:
            boxes.append([int(left), int(top), int(right), int(bottom)])
    return boxes


def test_each_person_is_a_row_with_frame_and_box(
    frames: Path, index: Path, model: SearchModel, detector: Detector, tmp_path: Path
) -> None:
    opened = Index.open(index)
    pictures = [opened.picture(row) for row in range(opened.num_rows)]
    skipped = {path.decode(): each.reason for path, each in opened.skipped().items()}
    crops = tmp_path / "crops"
    crops.mkdir()
    for number in range(9):
        name = f"{number}.png"
        boxes = [list(picture.box or ()) for picture in pictures if picture.path.decode() == name]
        assert boxes == found_by(detector.source, read(frames / name)), name
        assert bool(boxes) == (number % 3 > 0) == (name not in skipped), "people are found where some are"
    assert set(skipped.values()) == {"nobody is found in it (score at least 0.7, height at least 48 pixels)"}
    for picture in pictures:
        assert picture.box is not None and picture.offset_ms is None
        left, top, right, bottom = picture.box
        assert picture.name == f"{picture.path.decode()}#xywh={left},{top},{right - left},{bottom - top}"
        assert (picture.width_px, picture.height_px) == (right - left, bottom - top)
        crop_HWC = read(frames / picture.path.decode())[top:bottom, left:right]
        Image.fromarray(crop_HWC).save(crops / f"{picture.row:03d}.png")
    bring_up_to_date(crops, tmp_path / "index", model)
    alone = Index.open(tmp_path / "index")
    assert opened.num_rows == alone.num_rows > 9 and opened.num_files == 6
    for row in range(opened.num_rows):
        torch.testing.assert_close(opened.feature(row), alone.feature(row), atol=1e-3, rtol=0)
        assert opened.thumbnail(row) == alone.thumbnail(row)


class Says(nn.Module):
    """What a detector of torchvision may say."""

    def forward(self, frames: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        boxes = [
            [10.2, 20.7, 40.1, 90.0],
            [-3.0, -2.5, 30.5, 70.5],
            [60.5, 50.5, 130.0, 140.0],
            [1.0, 1.0, 40.0, 63.9],
            [1, 1, 8, 90],
        ]
        more = [[5.0, 5.0, 50.0, 95.0], [6.0, 5.0, 50.0, 95.0]]
        labels, scores = torch.tensor([1, 1, 1, 1, 1, 3, 1]), torch.tensor([0.8, 0.7, 0.9, 0.9, 0.9, 0.9, 0.6999])
        return [{"boxes": torch.tensor(boxes + more), "labels": labels, "scores": scores} for _ in frames]


def test_boxes_are_whole_pixels_inside_of_the_frame(detector: Detector) -> None:
    says = replace(detector, network=Says(), score=float(torch.tensor(0.7)), height_px=64)
    frame_HWC = np.zeros((100, 120, 3), np.uint8)
    assert says.boxes(frame_HWC) == [(10, 20, 41, 90), (0, 0, 31, 71)], "others are too low, too narrow, no people, unsure"
    assert replace(says, height_px=48).boxes(frame_HWC)[:2] == [(1, 1, 40, 64), (60, 50, 120, 100)], "the most certain first"


def test_a_box_is_in_the_frame_as_a_viewer_shows_it(
    people: list[Path], model: SearchModel, detector: Detector, tmp_path: Path
) -> None:
    upright_HWC, _ = make_frame(people, 101, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it to the right
    Image.fromarray(np.rot90(upright_HWC)).save(tmp_path / "held.png", exif=exif)
    bring_up_to_date(tmp_path, tmp_path / "index", model, detector=detector)
    opened = Index.open(tmp_path / "index")
    assert [list(opened.picture(row).box or ()) for row in range(opened.num_rows)] == found_by(detector.source, upright_HWC)
    assert opened.notes() == {0: "turned as its EXIF says"}


def test_re_ranking_and_more_like_this_see_the_person_alone(
    frames: Path, index: Path, model: SearchModel, tmp_path: Path
) -> None:
    searcher = Searcher(Index.open(index), model)
    found = searcher.search(Query.of("a man in black"), top=6, rerank=6)
    assert not found.remarks and all(hit.score is not None for hit in found.hits)
    (tmp_path / "crops").mkdir()
    for hit in found.hits:
        left, top, right, bottom = hit.picture.box or (0, 0, 0, 0)
        crop_HWC = read(frames / hit.picture.path.decode())[top:bottom, left:right]
        Image.fromarray(crop_HWC).save(tmp_path / "crops" / f"{hit.picture.row:03d}.png")
    bring_up_to_date(tmp_path / "crops", tmp_path / "index", model)
    alone = Searcher(Index.open(tmp_path / "index"), model).search(Query.of("a man in black"), top=6, rerank=6)
    assert [hit.picture.name for hit in alone.hits] == [f"{hit.picture.row:03d}.png" for hit in found.hits]
    assert np.allclose([hit.score for hit in alone.hits], [hit.score for hit in found.hits], atol=1e-5)
    like = searcher.search(Query(parts=(Part(row=found.hits[0].picture.row),)), top=1)
    assert like.hits[0].picture == found.hits[0].picture


def test_what_has_changed_is_found_again_and_nothing_else(
    frames: Path, index: Path, model: SearchModel, detector: Detector, tmp_path: Path
) -> None:
    folder, own = tmp_path / "frames", tmp_path / "index"
    shutil.copytree(frames, folder)
    first = bring_up_to_date(folder, own, model, detector=detector, workers=2)
    assert first.digest == bring_up_to_date(folder, own, model, detector=detector).digest
    before = Index.open(own)
    assert content(own).keys() == content(index).keys() and before.num_pictures == Index.open(index).num_pictures
    (folder / "1.png").rename(folder / "moved.png")
    shutil.copy(folder / "2.png", folder / "copy.png")
    shutil.copy(folder / "0.png", folder / "4.png")  # nobody is in it
    os.utime(folder / "5.png", (5, 5))
    (folder / "7.png").unlink()
    second = bring_up_to_date(folder, own, model, detector=detector)
    counts = {name: number for name, number in second.counts.items() if number}
    assert counts == {"unchanged": 2, "moved": 1, "new": 1, "copies": 1, "touched": 1, "deleted": 1}
    now = Index.open(own)
    rows = {name: [row for row, path in enumerate(now.paths()) if now.live_N[row] and path == name] for name in now.paths()}
    assert not rows[b"4.png"] and b"4.png" in now.skipped()
    for name, old in ((b"moved.png", b"1.png"), (b"copy.png", b"2.png"), (b"5.png", b"5.png")):
        rows_before = [row for row, path in enumerate(before.paths()) if path == old]
        assert [now.picture(row).box for row in rows[name]] == [before.picture(row).box for row in rows_before]
        assert [now.feature(row).tobytes() for row in rows[name]] == [before.feature(row).tobytes() for row in rows_before]
        assert [now.thumbnail(row) for row in rows[name]] == [before.thumbnail(row) for row in rows_before]
    third = bring_up_to_date(folder, own, model, detector=detector, check=True)
    assert (third.digest, third.counts["encoded"], third.counts["unchanged"]) == (second.digest, 0, 5)


def _index_until(folder: Path, index: Path, model: SearchModel, detector: Detector, calls: int) -> None:
    """Killed in the midst of a block."""

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls -= 1
        if calls == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.02)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    bring_up_to_date(folder, index, model, detector=detector, every_s=1.0, progress=progress)


def test_killed_it_ends_with_the_same_bytes(frames: Path, model: SearchModel, detector: Detector, tmp_path: Path) -> None:
    folder, small = tmp_path / "frames", replace(model, batch_images=1)
    folder.mkdir()
    for number in range(20):
        shutil.copy(frames / f"{number % 9}.png", folder / f"{number:02d}.png")
    for number in (3, 12):
        write_video(folder / f"{number:02d}.mp4", [read(frames / f"{scene}.png") for scene in (1, 2, 3)], rate=1)
    whole = bring_up_to_date(folder, tmp_path / "whole", small, detector=detector, every_s=1.0)
    assert len(Index.open(tmp_path / "whole").manifest.segments) >= 3
    sizes = set()
    for calls in (3, 6, 13):
        process = in_a_process(_index_until, folder, tmp_path / "killed", small, detector, calls)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        sizes.add(Index.open(tmp_path / "killed").num_rows)
    assert len(sizes) >= 2
    ended = bring_up_to_date(folder, tmp_path / "killed", small, detector=detector, every_s=1.0, workers=1)
    assert (ended.digest, ended.num_files) == (whole.digest, whole.num_files)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_another_detector_is_refused(
    frames: Path, index: Path, model: SearchModel, detector: Detector, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"made with a detector of name .*, score 0.7, .* and .* score 0.5, .* expected the same"
    ):
        bring_up_to_date(frames, index, model, detector=replace(detector, score=0.5))
    with pytest.raises(
        ValueError, match=r"made with a detector of .*, and no detector was asked for, expected the same; leave"
    ):
        bring_up_to_date(frames, index, model)
    bring_up_to_date(frames, tmp_path / "plain", model)
    with pytest.raises(
        ValueError, match=r"made with no detector, and a detector of name fasterrcnn_.* sha256 [0-9a-f]{12}, "
    ):
        bring_up_to_date(frames, tmp_path / "plain", model, detector=detector)


def test_an_index_of_before_there_were_boxes_is_read_and_gone_on_with(
    people: list[Path], model: SearchModel, tmp_path: Path
) -> None:
    folder, index = tmp_path / "pictures", tmp_path / "index"
    folder.mkdir()
    for person in people[:4]:
        shutil.copy2(person, folder)
    before = bring_up_to_date(folder, index, model)
    rows = index / "segment-000001.rows"
    columns = load_file(rows)
    save_file({name: columns[name] for name in columns if name not in ("box_R4", "offset_ms_R", "view_R")}, rows)
    manifest = json.loads((index / "manifest.json").read_text())
    for name in ("detector", "detector_source", "video_every_s"):
        del manifest[name]
    manifest["segments"][0]["files"]["rows"]["bytes"] = rows.stat().st_size
    (index / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy2(people[4], folder)
    after = bring_up_to_date(folder, index, model)
    opened = Index.open(index)
    assert (before.num_pictures, after.num_pictures, after.counts["unchanged"], after.counts["encoded"]) == (4, 5, 4, 1)
    assert all(opened.picture(row).box is None and opened.picture(row).offset_ms is None for row in range(5))
    assert opened.num_files == 5


def test_weights_that_do_not_fit_are_refused_in_a_sentence(detector: Detector, tmp_path: Path) -> None:
    def refusal(path: Path = Path(detector.source), **changed: object) -> str:
        given = {"name": NAME, "score": 0.5, "height_px": 64, **changed}
        with pytest.raises(ValueError) as refused:
            load_detector(path, **given, device=CPU)  # type: ignore[arg-type]
        return str(refused.value)

    assert "does not fit ssdlite320_mobilenet_v3_large: of 476 tensors, " in refusal(name="ssdlite320_mobilenet_v3_large")
    assert "--detector is 'yolo', expected one of torchvision's: fasterrcnn_mobilenet_v3" in refusal(name="yolo")
    assert "--detect-score is 1, expected a number between 0 and 1" in refusal(score=1)
    assert "--detect-height-px is 2, expected at least 8" in refusal(height_px=2)
    assert "found nothing, expected a file of weights" in refusal(tmp_path / "missing.pth")
    weights = torch.load(detector.source, weights_only=True)
    weights["more"] = weights.pop("backbone.fpn.layer_blocks.0.0.bias")
    torch.save(weights, tmp_path / "other.pth")
    expected = "1 missing (first: backbone.fpn.layer_blocks.0.0.bias), 1 unknown (first: more); expected a state dict of"
    assert expected in refusal(tmp_path / "other.pth")


def test_detectors_of_other_kinds_are_loaded_with_their_own_keys(tmp_path: Path) -> None:
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    kept = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "ssd.pth")  # as frozen norms are saved
    loaded = load_detector(tmp_path / "ssd.pth", name="ssdlite320_mobilenet_v3_large", score=0.5, height_px=64, device=CPU)
    assert loaded.boxes(np.zeros((64, 48, 3), np.uint8)) == []


def test_first_weights_of_a_resnet_run_without_epsilon(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision runs them, and no others."""
    assert people._first_weights("fasterrcnn_resnet50_fpn") == "258fb6c6"
    assert [people._first_weights(name) for name in ("fasterrcnn_resnet50_fpn_v2", detector.name)] == ["", ""]
    where = {"name": detector.name, "score": 0.7, "height_px": 48, "device": torch.device("cpu")}

    def epsilons() -> set[float]:
        network = load_detector(Path(detector.source), **where).network  # type: ignore[arg-type]
        return {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)}

    assert 0.0 not in epsilons() != set()
    monkeypatch.setattr(people, "_first_weights", lambda name: detector.sha256[:8])
    assert epsilons() == {0.0}
    monkeypatch.setattr(people, "_first_weights", lambda name: "another")
    assert 0.0 not in epsilons()


def test_the_command_finds_people_and_goes_on_with_the_same_detector(
    frames: Path, matching_run: Path, detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(frames, tmp_path / "frames")
    words = ["index", str(tmp_path / "frames"), str(tmp_path / "index")]
    named = ["--detect", detector.source, "--detector", NAME, "--detect-score", "0.8", "--workers", "1"]
    assert main([*words, "--run", str(matching_run), *named]) == 0
    said = capsys.readouterr().out
    number = Index.open(tmp_path / "index").num_pictures
    assert f"{number} pictures in 6 files of" in said and f"{number} encoded by" in said and "3 files skipped" in said
    assert "nobody is found in it (score at least 0.8, height at least 64" in (tmp_path / "index/skipped.tsv").read_text()
    assert main(words) == 0 and "(6 unchanged)" in capsys.readouterr().out
    assert main([*words, "--detect-score", "0.9"]) == 2
    assert_one_sentence(capsys.readouterr().err, "score 0.8", "and a detector of", "score 0.9", "expected the same")
    assert main([*words[:2], str(tmp_path / "plain"), "--run", str(matching_run), "--detect-score", "0.9"]) == 2
    assert_one_sentence(capsys.readouterr().err, "say how people are found, and --detect is not given; add it")
    assert main(["search", str(tmp_path / "index"), "a man", "--json", "--top", "3", "--path", "5*"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert {hit["file"] for hit in hits} == {str(tmp_path / "frames/5.png")} and len({tuple(hit["box"]) for hit in hits}) > 1
    for hit in hits:
        left, top, right, bottom = hit["box"]
        assert hit["path"] == f"5.png#xywh={left},{top},{right - left},{bottom - top}" and hit["offset_s"] is None
    assert main(["search", str(tmp_path / "index"), "a man"]) == 0
    assert hits[0]["path"] in capsys.readouterr().out

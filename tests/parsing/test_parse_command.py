"""`tbps parse` with a real model: what it writes, killed and resumed, shared by processes, and what it refuses."""

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_parsers import AS_PUBLISHED, command_of, maps_of, start_parse, write_model
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from tbps.command import main
from tbps.data.dataset_doctor import examine
from tbps.data.fields import FIELDS, try_fields
from tbps.data.image_files import ImageFiles
from tbps.data.label_maps import decode_map, map_path
from tbps.data.label_sets import ATR, LABEL_SETS, PASCAL
from tbps.parsing.segmentation_model import SegmentationModel, match_labels
from tbps.parsing.write_maps import images_to_parse

CPU = torch.device("cpu")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def test_maps_are_those_of_the_model_and_can_be_trained_on(
    world: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command_of(world, model)) == 0
    images = images_to_parse(world, "rstpreid")
    assert f"{len(images)} maps of ATR written, all {len(images)} are there" in capsys.readouterr().out
    network = AutoModelForSemanticSegmentation.from_pretrained(model).eval()
    processor, files, seen = AutoImageProcessor.from_pretrained(model), ImageFiles(world, "rstpreid"), set()
    for path in images:
        with Image.open(files.find(path)) as image, torch.inference_mode():
            logits = network(**processor(images=image.convert("RGB"), return_tensors="pt")).logits
        larger = torch.nn.functional.interpolate(logits, size=(48, 16), mode="bilinear", align_corners=False)
        content = (world / map_path(path, "atr")).read_bytes()
        # Batches may move the last bits of a logit, hence a pixel between two labels.
        same = decode_map(content, ATR).numpy() == larger[0].argmax(0).numpy()
        assert same.mean() > 0.99, path
        seen |= set(np.unique(decode_map(content, ATR)))
    assert len(seen) > 3, "a model that says one label everywhere would show little"
    manifest = json.loads((world / "parsing/atr/manifest.json").read_text())
    assert manifest["label_set"] == "atr" and manifest["labels"] == list(ATR.labels)
    assert manifest["parser"] == "tiny-segformer" and len(manifest["parser_sha256"]) == 64
    lines = (world / "parsing/atr/images.sha256").read_text().splitlines()
    assert lines == [f"{hashlib.sha256(files.read(path)).hexdigest()}  {path}" for path in sorted(images)]
    assert "parsing map" not in examine(world, "rstpreid", decode=True).text().replace("images and parsing maps were", "")
    assert try_parsing(world) is None


def try_parsing(world: Path) -> None:
    from tbps.data.annotations import read_annotations
    from tbps.data.pairs import FolderPairs

    source = FolderPairs(world, "rstpreid", read_annotations(world, "rstpreid").split("train"))
    try_fields({"parsing_atr": FIELDS["parsing_atr"]}, source)


@pytest.mark.slow
def test_killed_and_started_again_it_writes_the_same_files(world: Path, model: Path, tmp_path: Path) -> None:
    undisturbed = Path(shutil.copytree(world, tmp_path / "undisturbed"))
    assert main(command_of(undisturbed, model)) == 0
    expected = maps_of(undisturbed)
    kills, counts = 0, []
    while kills < 3:
        process = start_parse(command_of(world, model), said=tmp_path)
        before = len(list(world.rglob("parsing/atr/**/*.png")))
        while process.poll() is None and len(list(world.rglob("parsing/atr/**/*.png"))) < before + 10:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.kill_all()
        process.wait()
        kills += 1
        counts.append(len(list(world.rglob("parsing/atr/**/*.png"))))
    assert kills >= 2 and counts == sorted(counts) and counts[0] < len(expected) - 2, (kills, counts)
    assert main(command_of(world, model)) == 0
    assert maps_of(world) == expected


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(world: Path, model: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(world, tmp_path / "alone"))
    assert main(command_of(alone, model)) == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = start_parse(command_of(world, model), *launcher, said=tmp_path)
    try:
        status = process.wait(300)
    finally:
        process.kill_all()
    assert status == 0, (tmp_path / "errors").read_text()
    assert maps_of(world) == maps_of(alone)
    told = (tmp_path / "output").read_text().splitlines()
    written = [int(line.split(": ")[1].split()[0]) for line in told if "maps of ATR written by process" in line]
    assert len(written) == 2 and sum(written) == len(images_to_parse(world, "rstpreid")) and min(written) > 0, told


def test_a_process_writes_its_share_and_says_what_is_left(
    world: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command_of(world, model)) == 0
    images, told = images_to_parse(world, "rstpreid"), capsys.readouterr().out
    own = [path for first in range(3, len(images), 6) for path in images[first : first + 3]]
    assert (
        f"{len(own)} maps of ATR written by process 1 of 2, {len(images) - len(own)} are still to come from others" in told
    )
    assert {path for path in images if (world / map_path(path, "atr")).exists()} == set(own)
    assert not (world / "parsing/atr/images.sha256").exists()
    monkeypatch.setenv("RANK", "0")
    assert main(command_of(world, model)) == 0
    assert f"all {len(images)} are there" in capsys.readouterr().out
    assert (world / "parsing/atr/images.sha256").exists()
    monkeypatch.setenv("RANK", "zero")
    assert "RANK is 'zero', expected a number as torchrun sets it" in refused(capsys, *command_of(world, model))


def test_the_same_command_writes_what_is_missing_or_of_another_image(
    world: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command_of(world, model)) == 0
    expected, images = maps_of(world), images_to_parse(world, "rstpreid")
    first, second, third = (world / map_path(path, "atr") for path in images[:3])
    first.unlink()
    second.write_bytes(third.read_bytes())
    assert main(command_of(world, model)) == 0
    assert maps_of(world) == expected
    assert main(command_of(world, model)) == 0
    told = [line.split(": ")[1].split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [str(len(images)), "2", "0"]


def test_a_model_of_the_same_labels_in_another_order_means_the_same() -> None:
    label_set, table = match_labels({"1": "Upper Arms", "0": "lower_legs", "2": "BACKGROUND"} | others(), "x")
    assert label_set is PASCAL
    assert [PASCAL.labels[number] for number in table[:3]] == ["lower-legs", "upper-arms", "background"]
    for one in LABEL_SETS.values():
        found, table = match_labels(dict(enumerate(reversed(one.labels))), "x")
        assert found is one and table.tolist() == list(reversed(range(len(one))))


def others() -> dict[str, str]:
    return {str(number): name for number, name in enumerate(("head", "torso", "lower-arms", "upper-legs"), start=3)}


def test_the_order_of_outputs_does_not_change_a_map(world: Path, model: Path, tmp_path: Path) -> None:
    """The same network whose outputs are renamed gives the same regions under other names."""
    order = np.roll(np.arange(len(ATR)), 4)
    renamed = write_model(tmp_path / "renamed", [AS_PUBLISHED[number] for number in order])
    path = images_to_parse(world, "rstpreid")[0]
    with Image.open(ImageFiles(world, "rstpreid").find(path)) as image:
        pixels_HWC = np.array(image.convert("RGB"))
    plain, other = (SegmentationModel(str(folder), CPU) for folder in (model, renamed))
    maps = [one.parse([one.prepare(path, pixels_HWC)], [pixels_HWC.shape[:2]])[0] for one in (plain, other)]
    assert np.array_equal(order[maps[0]], maps[1]) and len(np.unique(maps[0])) > 1
    assert plain.manifest.parser_sha256 != other.manifest.parser_sha256


@pytest.mark.parametrize("labels", [["wall", "sky", "person", "car", "dog", "bird", "tree"], [*AS_PUBLISHED[:-1], "wing"]])
def test_a_model_that_knows_no_people_is_refused(
    world: Path, tmp_path: Path, labels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, *command_of(world, write_model(tmp_path / "other", labels)))
    assert f"knows {len(labels)} labels ({', '.join(label.lower() for label in labels[:3])}, " in told
    assert "expected those of people: 18 of ATR (hat, hair, sunglasses, ...); 20 of LIP" in told
    assert not (world / "parsing").exists()


def test_a_parser_that_is_none_is_refused(
    world: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, *command_of(world, tmp_path / "nowhere"))
    assert "nowhere cannot be opened (" in told and "give a segmentation model of people by its Hugging Face name" in told
    half = Path(shutil.copytree(model, tmp_path / "half"))
    from safetensors.torch import load_file, save_file

    weights = load_file(half / "model.safetensors")
    save_file(
        {name: one for name, one in weights.items() if "classifier" not in name},
        half / "model.safetensors",
        {"format": "pt"},
    )
    told = refused(capsys, *command_of(world, half))
    assert "half lacks 2 weights, such as decode_head.classifier.bias: it was not trained to its end for this" in told
    assert "--batch-images is 0, expected at least 1" in refused(capsys, *command_of(world, model, "--batch-images", "0"))


def test_maps_of_two_parsers_are_not_mixed(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command_of(world, model)) == 0
    expected = maps_of(world)
    other = write_model(tmp_path / "tiny-segformer", seed=6)
    told = refused(capsys, *command_of(world, other))
    assert "parsing/atr holds maps of tiny-segformer with sha256 " in told and "expected tiny-segformer with sha256" in told
    assert "remove the folder to write all of them anew, or go on with the parser" in told
    assert maps_of(world) == expected
    (world / "parsing/atr/manifest.json").unlink()
    assert "holds files and no manifest, so that nobody knows what their labels are" in refused(
        capsys, *command_of(world, model)
    )


def test_without_an_image_processor_images_are_made_as_segformers(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parser = SegmentationModel(str(write_model(tmp_path / "bare", processor=False)), CPU)
    assert "brings no image processor: images are made" in caplog.text
    assert parser.prepare("a", np.zeros((48, 16, 3), np.uint8)).shape == (3, 512, 512)


def test_images_that_would_share_a_map_are_refused(world: Path) -> None:
    rows = json.loads((world / "data_captions.json").read_text())
    path = rows[0]["img_path"]
    twin: dict[str, Any] = {**rows[0], "img_path": str(Path(path).with_suffix(".bmp"))}
    (world / "data_captions.json").write_text(json.dumps([*rows, twin]))
    with pytest.raises(ValueError, match=r"^images \S+.jpg and \S+.bmp differ in their ending alone, so that their parsing"):
        images_to_parse(world, "rstpreid")


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_file(
    world: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = len(images_to_parse(world, "rstpreid"))
    caplog.set_level("INFO")
    monkeypatch.setattr("tbps.parse_command.LINE_S", 0.0)
    assert main(command_of(world, model)) == 0
    lines = [record.message for record in caplog.records if "images parsed" in record.message]
    assert lines[0] == f"3 of {number} images parsed" and lines[-1] == f"{number} of {number} images parsed"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    capsys.readouterr()
    assert main(command_of(world, model)) == 0
    assert f"{number}/{number}" in capsys.readouterr().err

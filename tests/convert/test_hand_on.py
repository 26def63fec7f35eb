"""`tbps export`: what lies in the folder, what it says, that it computes what the run computes, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exportable_runs import tiny_run, untrained_run
from safetensors.torch import load_file

from tbps.command import main
from tbps.config.start import Start
from tbps.convert.files import sha256_of
from tbps.finished import open_finished
from tbps.methods.registry import build_method
from tbps.runs.config_hash import config_hash
from tbps.runs.exported import read_exported, without_places
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint, weights_sha256
from tbps.text.captions import CaptionEncoder, make_captions
from tbps.text.tokeniser import open_tokeniser
from tbps.training.start import load_finished, start


@pytest.fixture(scope="module", params=["mars", "irra", "aptm"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return untrained_run(request.param, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(run), str(out), "--licence", "cc-by-nc-4.0"]) == 0
    return out


def test_it_holds_what_others_need(run: Path, exported: Path) -> None:
    bert = run.parent.name != "irra"
    tokens = "vocab.txt" if bert else "merges.txt"
    names = {"README.md", "config.json", "model.safetensors", "preprocessing.json", "results.json", tokens}
    assert {file.name for file in exported.iterdir()} == names
    told = json.loads((exported / "preprocessing.json").read_text())
    config = RunFolder(run).read_run()
    assert (told["image"]["height"], told["image"]["width"]) == config.data.image_px == (64, 32)
    assert told["image"]["interpolation"] == config.data.evaluation_pixels.interpolation
    assert told["image"]["mean"] == list(config.data.evaluation_pixels.mean)
    assert told["caption"]["tokeniser"]["kind"] == ("word-pieces" if bert else "byte-pairs")
    assert told["caption"]["cleaning"] == config.data.captioning.cleaning
    if bert:
        vocabulary = Path(config.data.captioning.vocabulary).read_text().split()
        assert (exported / tokens).read_text().split() == vocabulary
    tensors = load_file(exported / "model.safetensors")
    assert not [name for name in tensors if name.startswith(("momentum_encoder.", "queue."))]


def test_it_tells_nothing_of_the_machine_it_was_trained_on(run: Path, exported: Path) -> None:
    text = (exported / "config.json").read_text() + (exported / "README.md").read_text()
    assert "/home/somebody" not in text and str(run.parents[2]) not in text
    opened = read_exported(exported)
    assert opened is not None and opened.run.data.root == ""
    assert opened.weights_sha256 == weights_sha256(RunFolder(run).read_run(), best_checkpoint(run))
    assert opened.config_hash == config_hash(RunFolder(run).read_run())


def test_its_method_gives_the_bits_of_the_runs(run: Path, exported: Path) -> None:
    config, opened = RunFolder(run).read_run(), open_finished(exported)
    first = build_method(config.method, image_px=config.data.image_px, num_identities=config.data.num_identities).eval()
    load_finished(first, config, best_checkpoint(run))
    second = opened.method()
    image_BCHW = torch.randn(3, 3, *config.data.image_px)
    assert torch.equal(first.embed_images(image_BCHW).feature_IE, second.embed_images(image_BCHW).feature_IE)
    features = []
    for method, captioning in ((first, config.data.captioning), (second, opened.run.data.captioning)):
        encoder = CaptionEncoder(
            open_tokeniser(captioning, config.needs.text), max_words=0, max_tokens=40, cleaning="space", chunker=None
        )
        captions = make_captions(encoder.encode_many(["a woman in a red coat", "a man"], ["a", "b"]))
        features.append(method.embed_captions(captions).feature_QE)
    assert torch.equal(*features)


def test_a_run_starts_from_it_but_for_heads_of_training(
    run: Path, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, new = RunFolder(run).read_run(), RunFolder(tmp_path / "new")
    states = []
    for place in (run, exported):
        torch.manual_seed(1)
        method = build_method(config.method, image_px=config.data.image_px, num_identities=config.data.num_identities)
        with caplog.at_level(logging.INFO):
            assert start(method, new, Start(weights=str(place))).steps == 0
        states.append(method.state_dict())
    said = [text for text in caplog.messages if text.startswith("starting from ")]
    held = load_file(exported / "model.safetensors").keys()
    lacking = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert not lacking & held and said[1].startswith(f"starting from {exported / 'model.safetensors'}: {len(held)} tensors")
    if run.parent.name == "mars":
        assert {name.split(".")[1] for name in lacking if name.startswith("online.")} == {"word_head"}
        assert "missing in the file: " in said[1] and "missing in the file: " not in said[0]
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match="it is damaged or was changed; get the folder again"):
        start(method, new, Start(weights=str(damaged)))


def test_the_card_says_what_it_is(run: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    config = RunFolder(run).read_run()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\nlibrary_name: tbps\n")
    for part in (
        f"# {config.recipe}/tiny",
        "Data: cuhk-pedes",
        "Steps: 5 of 32 pairs",
        f"Seed: {config.loop.seed}",
        "Not scored: the run has no results",
        "without a legal basis",
        "given for research alone",
        "`model.safetensors`: the weights",
    ):
        assert part in card
    if run.parent.name != "irra":
        held, left_out = [line for line in card.splitlines() if line.startswith(("- Beside", "- Left out"))]
        assert "itm_head (" in held and "word_head" not in held and "queue" not in held
        assert "online.word_head (5 tensors)" in left_out


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessing.json"])
def test_a_file_that_was_changed_or_is_missing_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    opened = open_finished(copy)
    with pytest.raises(ValueError, match=rf"{name} has sha256 {sha256_of(copy / name)}, expected \w+: it is damaged or was"):
        opened.method()
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"copy has no {name}, expected it in an exported model; get the folder again"):
        opened.method()


def test_another_format_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "export": {**config["export"], "format": 7}}))
    with pytest.raises(ValueError, match=r"config\.json has export format 7, expected 1; get the folder again"):
        read_exported(copy)
    del config["export"]["step"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json is not whole: export has no proper 'step'"):
        read_exported(copy)


def test_what_cannot_be_exported_is_one_sentence(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, out, sentence in (
        (exported, tmp_path / "a", "is an exported model already, expected a run folder; copy it, or name the run"),
        (
            tmp_path,
            tmp_path / "a",
            "holds no config.json, expected a run folder (runs/<recipe>/<name>), what tbps export wrote",
        ),
        (tmp_path / "absent", tmp_path / "a", "holds no config.json, expected a run folder"),
        (exported, exported, "exists and is left as it is; choose another name, or remove it first"),
    ):
        capsys.readouterr()
        assert main(["export", str(source), str(out)]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = untrained_run("clip", tmp_path)
    (run / "results").mkdir()
    (run / "results/final-cuhk-pedes-test.json").write_text("{}")
    assert main(["export", str(run), str(tmp_path / "out/model")]) == 2
    assert "has format None, expected 1" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_places_of_several_data_sets_are_left_out(tmp_path: Path) -> None:
    run = tiny_run("mars", tmp_path)
    sources = ("coco:1", "cuhk-pedes:3", "own=cuhk-pedes:1")
    roots = ("coco=/home/somebody/coco", "own=/home/somebody/own")
    data = replace(run.data, sources=sources, roots=roots)
    start = replace(run.start, weights="/home/somebody/weights/albef.safetensors")
    plain = without_places(replace(run, data=data, start=start))
    assert plain.data.sources == sources and plain.data.trained_on == data.trained_on
    assert plain.start.weights == "albef.safetensors" and "somebody" not in repr(plain) and plain.runs == "runs"

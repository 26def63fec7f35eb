from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_step import Recorded, build
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_methods import scattered, state, tiny

from tbps.config.data import Captioning, Data
from tbps.config.encoders import Vit
from tbps.config.methods.bilma import Bilma
from tbps.config.methods.rasa import Rasa
from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.convert.export import export
from tbps.convert.official import from_official, to_official
from tbps.convert.weights import load_weights, read_weights
from tbps.runs import checkpoint
from tbps.runs.run_folder import OpenRunFolder

RUN = Run(
    recipe="rasa",
    name="trial",
    method=Rasa(vit=Vit(patch_px=8)),
    data=Data(
        benchmark="cuhk-pedes",
        captioning=Captioning(vocabulary="x", max_words=5, max_tokens=6),
        image_px=(64, 16),
        batch_pairs=4,
        group_pairs=2,
    ),
    optim=Optimiser(lr=1e-5),
    schedule=Schedule(epochs=1),
)


def run_folder(tmp_path: Path, states: dict[int, Any], best: int | None, *, run: Run = RUN) -> Path:
    """A run with checkpoints; validated where `best` says which was the best."""
    folder = OpenRunFolder(replace(run, runs=str(tmp_path / "runs")))
    for step, model in states.items():
        progress = {"step": step}
        checkpoint.save(folder.checkpoints, step=step, model=model, optimiser={"x": torch.zeros(2)}, progress=progress)
        if best is not None:
            folder.write_evaluation("val", step, {"rank_1": 60.0 + (step == best), "mAP": 50.0})
    folder.close()
    return folder.path


def stripped(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("momentum_encoder.", "queue."))}


def test_a_method_may_call_its_tensors_as_it_likes(tmp_path: Path) -> None:
    own = {"tower.weight": torch.ones(2, 3), "scale": torch.ones(())}
    folder = run_folder(tmp_path, {5: own}, None)
    assert "2 tensors; left out 0" in export(folder, tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors").keys() == own.keys()
    with pytest.raises(ValueError, match=r"none of the 2 tensors \(.*\) has a key in official code that we know; leave out"):
        export(folder, tmp_path / "official.pth", official=True)


@pytest.mark.parametrize("of", ["run", "checkpoint"])
def test_what_only_training_reads_is_left_out(tmp_path: Path, of: str) -> None:
    towers = {"towers.image.cls_token": torch.ones(4), "classifier.bias": torch.zeros(2)}
    encoder = {"cross_modal_encoder.mask_token": torch.ones(4), "cross_modal_encoder.word_head.out.bias": torch.zeros(3)}
    data = replace(RUN.data, captioning=Captioning(vocabulary="clip", max_words=0, max_tokens=77))
    run = replace(RUN, method=Bilma(), data=data, recipe="bilma")
    folder = run_folder(tmp_path, {5: towers | encoder}, None, run=run)
    source = folder if of == "run" else folder / "checkpoints/step-00000005"
    report = export(source, tmp_path / "out.safetensors")
    assert "2 tensors; left out 2 of momentum encoder, queue and cross_modal_encoder" in report
    assert load_file(tmp_path / "out.safetensors").keys() == towers.keys()


@pytest.mark.parametrize(("best", "expected"), [(10, 10), (None, 20)])
def test_a_run_folder_gives_its_best_else_its_newest_checkpoint(tmp_path: Path, best: int | None, expected: int) -> None:
    states = {step: state(scattered(tiny("rasa", image_px=(64, 16), seed=step))) for step in (10, 20)}
    folder = run_folder(tmp_path, states, best)
    out = tmp_path / "exported.safetensors"
    report = export(folder, out)
    kept = stripped(states[expected])
    found = load_file(out)
    assert found.keys() == kept.keys() and all(torch.equal(found[name], kept[name]) for name in kept)
    assert {"temperature", "itm_head.weight", "prd_head.bias", "online.word_head.bias"} < found.keys()
    file = checkpoint.folder_of(folder / "checkpoints", expected) / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with safe_open(out, framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata == {
        "format": "tbps-weights-1",
        "source": "trial",
        "sha256": digest,
        "kind": "rasa",
        "run": "rasa/trial",
        "checkpoint": f"step-000000{expected}",
        "image_grid": "8x2",
    }
    assert f"left out {len(states[expected]) - len(kept)} of momentum encoder and queue" in report and digest in report
    method = tiny("rasa", image_px=(32, 32))  # the grid is known, so another one can start from it
    loaded = load_weights(method, out)
    assert loaded.resized == ["online.image_encoder.positions"] and loaded.missing == []


def test_a_checkpoint_folder_and_its_file_give_the_same(tmp_path: Path) -> None:
    model = state(scattered(tiny("mars")))
    folder = checkpoint.save(
        tmp_path / "checkpoints", step=5, model=model, optimiser={"x": torch.zeros(2)}, progress={"step": 5}
    )
    for number, source in enumerate((folder, folder / "model.safetensors")):
        export(source, tmp_path / f"{number}.safetensors")
        found = load_file(tmp_path / f"{number}.safetensors")
        assert found.keys() == stripped(model).keys()
    assert "mae_decoder.pixels.bias" in found
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"step-00000005: the checkpoint cannot be used: model\.safetensors has 5 bytes"):
        export(folder, tmp_path / "2.safetensors")


@pytest.mark.parametrize("kind", ["albef", "rasa", "mars"])
def test_an_official_file_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    official = Recorded(kind).part("weights.")
    save_file(from_official(official).tensors, tmp_path / "ours.safetensors")
    report = export(tmp_path / "ours.safetensors", tmp_path / "official.pth", official=True)
    content = torch.load(tmp_path / "official.pth", weights_only=True)
    expected = {key: tensor for key, tensor in official.items() if "queue" not in key}
    assert list(content) == ["model"] and content["model"].keys() == expected.keys()
    assert all(torch.equal(content["model"][key], tensor) for key, tensor in expected.items())
    assert f"{len(expected)} tensors under official keys, without queue" in report


def test_official_export_without_a_momentum_encoder_copies_the_online_encoder_and_names_what_has_no_key(
    tmp_path: Path,
) -> None:
    model = state(tiny("mars", attribute_head="own"))
    save_file(stripped(model), tmp_path / "ours.safetensors")
    report = export(tmp_path / "ours.safetensors", tmp_path / "official.pth", official=True)
    written = torch.load(tmp_path / "official.pth", weights_only=True)["model"]
    assert torch.equal(written["visual_encoder_m.pos_embed"], written["visual_encoder.pos_embed"])
    assert "no momentum encoder in the file: its copies are those of the online encoder" in report
    assert "attribute_head.weight has no official key and is left out" in report


def test_official_export_of_a_run_gives_the_momentum_parts_that_no_loss_read_as_the_online_ones(tmp_path: Path) -> None:
    model = state(scattered(build(Recorded("albef"))))
    save_file(model, tmp_path / "ours.safetensors")
    report = export(tmp_path / "ours.safetensors", tmp_path / "official.pth", official=True)
    written = torch.load(tmp_path / "official.pth", weights_only=True)["model"]
    expected = {key for key in Recorded("albef").part("weights.") if "queue" not in key}
    assert written.keys() == expected
    online = [name for name in model if name.startswith("online.")]
    lacking = [name for name in online if name.replace("online.", "momentum_encoder.") not in model]
    assert (
        lacking
        and f"{len(lacking)} momentum tensors that no loss of the run reads are those of the online encoder" in report
    )
    for key in (key for name in lacking for key in to_official({name: model[name]}, bert_level=False)):
        assert torch.equal(written[key.replace("text_encoder.", "text_encoder_m.")], written[key]), key


def test_exporting_an_export_keeps_what_is_known_about_it(tmp_path: Path) -> None:
    tensors = state(build(Recorded("albef")))
    save_file(tensors, tmp_path / "a.safetensors", metadata={"kind": "albef", "image_grid": "4x4", "format": "x"})
    export(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
    assert (metadata["kind"], metadata["image_grid"], metadata["format"]) == ("albef", "4x4", "tbps-weights-1")


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: found no config\.json and no model\.safetensors, expected a run folder"):
        export(tmp_path / "empty", out)
    with pytest.raises(ValueError, match="absent: found no config"):
        export(tmp_path / "absent", out)
    torch.save({"model": {}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: not a readable safetensors file .*convert a foreign checkpoint first"):
        export(tmp_path / "a.pth", out)
    save_file({"zebra": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"none of its 1 tensors has a name of ours \(online\.\* or towers\.\*\); convert"):
        export(tmp_path / "b.safetensors", out)
    with pytest.raises(ValueError, match="holds no whole checkpoint"):
        export(run_folder(tmp_path, {}, None), out)
    out.write_text("mine")
    with pytest.raises(ValueError, match="exists and is left as it is"):
        export(tmp_path / "b.safetensors", out)
    assert out.read_text() == "mine"


def test_a_file_that_does_not_say_its_grid_is_told_it(tmp_path: Path) -> None:
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(state(tiny("rasa", image_px=(64, 16))), source)
    with pytest.raises(ValueError, match="a grid of 4 x 2 has 8 patches, and its position table 16"):
        export(source, out, grid=(4, 2))
    export(source, out, grid=(8, 2))
    assert read_weights(out)[1]["image_grid"] == "8x2"
    assert load_weights(tiny("rasa", image_px=(32, 32)), out).resized == ["online.image_encoder.positions"]
    with pytest.raises(ValueError, match="--grid says 4x4 patches, the file or its run 8x2; leave --grid out"):
        export(out, tmp_path / "c.safetensors", grid=(4, 4))

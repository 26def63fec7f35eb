"""IRRA's official checkpoints: every key of the published model has a place, and an export gives them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import recordings
import torch
from recorded_irra import settings
from torch import Tensor

from tbps.config.methods.irra import Irra, IrraWeights
from tbps.convert.export import export
from tbps.convert.foreign import convert
from tbps.convert.irra_names import from_irra, irra_grid, to_irra
from tbps.convert.weights import load_weights, read_weights
from tbps.methods.registry import build_method

KEYS = json.loads((Path(__file__).parents[1] / "parity" / "irra_official_keys.json").read_text())
IDENTITIES = 11_003


def official() -> dict[str, Tensor]:
    """The published model's keys, shapes and types, without memory for its numbers."""
    types = {"float16": torch.float16, "float32": torch.float32}
    return {key: torch.empty(shape, dtype=types[kind], device="meta") for key, shape, kind, *_ in KEYS["rows"]}


def recorded() -> tuple[dict[str, Tensor], Any]:
    facts, tensors = recordings.recording("irra")
    prefix = "weights."
    return {key.removeprefix(prefix): part for key, part in tensors.items() if key.startswith(prefix)}, facts


def saved(folder: Path, state: dict[str, Tensor], name: str = "best.pth") -> Path:
    torch.save({"model": state, "optimizer": {}, "epoch": 7}, folder / name)
    return folder / name


def test_every_official_key_is_placed() -> None:
    state = official()
    tensors, unplaced = from_irra(state)
    assert unplaced == []
    with torch.device("meta"):
        ours = build_method(Irra(), image_px=(384, 128), num_identities=IDENTITIES).state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: each.shape for name, each in ours.items()}
    assert sum(tensor.numel() for tensor in tensors.values()) == KEYS["total_parameters"]
    assert irra_grid(tensors) == (24, 8)
    back = to_irra(tensors)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("half", [False, True])
def test_there_and_back(tmp_path: Path, prefix: str, half: bool) -> None:
    state, facts = recorded()
    if half:  # as official files are: norms and tables stay float32
        state = {key: tensor if ".ln_" in key else tensor.half() for key, tensor in state.items()}
    file = saved(tmp_path, {f"{prefix}{key}": tensor for key, tensor in state.items()})
    ours, again = tmp_path / "ours.safetensors", tmp_path / "again.pth"
    report = convert(file, ours, grid=tuple(facts["derived"]["grid_hw"]))
    assert "irra weights" in report and "without a place" not in report and "momentum" not in report
    metadata = read_weights(ours)[1]
    assert metadata["kind"] == "irra" and metadata["quick_gelu"] == "1"
    assert f"{len(state)} tensors under the official keys of IRRA" in export(ours, again, official=True)
    back = torch.load(again, weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_a_classifier_of_other_identities_starts_anew(tmp_path: Path) -> None:
    state, facts = recorded()
    ours = tmp_path / "ours.safetensors"
    convert(saved(tmp_path, state), ours, grid=tuple(facts["derived"]["grid_hw"]))
    method = build_method(settings(facts), image_px=tuple(facts["config"]["img_size"]), num_identities=99)
    report = load_weights(method, ours)
    classes = facts["config"]["num_classes"]
    assert sorted(report.unplaced, reverse=True) == [
        f"classifier.{part} (of {classes} identities)" for part in ("weight", "bias")
    ]
    assert report.missing == ["classifier.weight", "classifier.bias"]


def test_towers_alone_are_clip_weights(tmp_path: Path) -> None:
    state, facts = recorded()
    towers = {key: tensor for key, tensor in state.items() if key.startswith("base_model.")}
    report = convert(saved(tmp_path, towers), tmp_path / "clip.safetensors", grid=tuple(facts["derived"]["grid_hw"]))
    assert "clip weights" in report


def test_a_checkpoint_without_a_loss_has_no_head_of_it(tmp_path: Path) -> None:
    state, facts = recorded()
    heads = ("cross_attn", "cross_modal", "ln_p", "mlm_head")
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(heads)}
    convert(saved(tmp_path, kept), tmp_path / "ours.safetensors", grid=tuple(facts["derived"]["grid_hw"]))
    config = settings(facts, weights=IrraWeights(mlm=0))
    method = build_method(config, image_px=tuple(facts["config"]["img_size"]), num_identities=facts["config"]["num_classes"])
    assert load_weights(method, tmp_path / "ours.safetensors").missing == []


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    state, facts = recorded()
    del state["base_model.ln_final.weight"]
    with pytest.raises(ValueError, match=r"taken for irra weights, and 1 essential tensors are missing \(towers.text.norm"):
        convert(saved(tmp_path, state), tmp_path / "ours.safetensors", grid=tuple(facts["derived"]["grid_hw"]))
    state, _ = recorded()
    state["new_head.weight"] = torch.zeros(2)
    del state["cross_attn.in_proj_weight"]
    report = convert(saved(tmp_path, state), tmp_path / "ours.safetensors", grid=tuple(facts["derived"]["grid_hw"]))
    assert "1 without a place, left out:\n  new_head.weight" in report

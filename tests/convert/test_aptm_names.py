"""APTM's official checkpoints: every key of the published model has a place, and an export gives the weights back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import recordings
import torch
from torch import Tensor

from tbps.convert.aptm_names import from_aptm, to_aptm
from tbps.convert.export import export
from tbps.convert.foreign import convert
from tbps.convert.weights import read_weights

KEYS = json.loads((Path(__file__).parents[1] / "parity" / "aptm_official_keys.json").read_text())
BUFFERS = (".relative_position_index", ".attn_mask", ".position_ids")


def official() -> dict[str, Tensor]:
    """The published model's keys, shapes and types; numbers only where a tensor is stored twice, which is checked."""
    types = {"float32": torch.float32, "int64": torch.int64}
    return {key: torch.zeros((), dtype=types[kind]).expand(shape) for key, shape, kind, *_ in KEYS["rows"]}


def recorded(name: str = "aptm_finetune") -> dict[str, Tensor]:
    _, tensors = recordings.recording(name)
    return {key.removeprefix("weights."): part for key, part in tensors.items() if key.startswith("weights.")}


def saved(folder: Path, state: dict[str, Tensor], name: str = "checkpoint_31.pth") -> Path:
    torch.save({"model": state, "config": {"batch_size_train": 150, "schedular": {"sched": "linear"}}}, folder / name)
    return folder / name


def test_every_official_key_is_placed() -> None:
    state = official()
    assert len(state) == 629
    converted = from_aptm(state)
    assert converted.unplaced == []
    assert sum(tensor.numel() for tensor in converted.tensors.values()) == KEYS["total_parameters"]
    tied = {f"text_encoder.cls.predictions.decoder.{part}" for part in ("weight", "bias")}
    assert set(converted.duplicates) == tied | {key for key in state if key.endswith(BUFFERS)}
    back = to_aptm(converted.tensors, duplicates=True)
    assert {key: tensor.shape for key, tensor in back.items()} == {
        key: tensor.shape for key, tensor in state.items() if not key.endswith(BUFFERS[:2])
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_there_and_back(tmp_path: Path, prefix: str) -> None:
    state = recorded()
    file = saved(tmp_path, {f"{prefix}{key}": tensor for key, tensor in state.items()})
    ours, again = tmp_path / "ours.safetensors", tmp_path / "again.pth"
    report = convert(file, ours)
    assert "aptm weights" in report and "without a place" not in report and "momentum" not in report
    assert read_weights(ours)[1]["kind"] == "aptm"
    assert "tensors under the official keys of APTM" in export(ours, again, official=True)
    back = torch.load(again, weights_only=True)["model"]
    weights = {key for key in state if not key.endswith(BUFFERS[:2])}
    assert weights <= back.keys() and all(key.endswith(BUFFERS[2]) for key in back.keys() - weights)
    assert all(torch.equal(back[key], state[key]) for key in weights)


def test_what_is_not_whole_or_not_tied_is_refused(tmp_path: Path) -> None:
    for key, name in (
        ("vision_encoder.layers.0.downsample.norm.bias", "online.image_encoder.stages.0.merge.norm.bias"),
        ("itm_head.3.bias", "itm_head.3.bias"),
        ("text_encoder.bert.encoder.layer.3.crossattention.self.key.bias", "online.text_encoder.layers.3.cross_attention"),
    ):
        state = recorded()
        del state[key]
        with pytest.raises(ValueError, match=rf"taken for aptm weights, and 1 essential tensors are missing \({name}"):
            convert(saved(tmp_path, state), tmp_path / "ours.safetensors")
    state = recorded()
    state["text_encoder.cls.predictions.decoder.bias"] = state["text_encoder.cls.predictions.bias"] + 1
    with pytest.raises(ValueError, match=r"differs from .*, expected the same tensor stored twice"):
        convert(saved(tmp_path, state), tmp_path / "ours.safetensors")


def test_an_unknown_key_is_in_the_report(tmp_path: Path) -> None:
    report = convert(saved(tmp_path, recorded() | {"new_head.weight": torch.zeros(2)}), tmp_path / "ours.safetensors")
    assert "1 without a place, left out:\n  new_head.weight" in report

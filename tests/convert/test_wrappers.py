"""Weights as scripts save them: whatever wraps the model comes off, and what would then be ambiguous is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from recorded_step import Recorded
from safetensors.torch import load_file
from small_methods import tiny
from test_pretrained import bert, compare_text
from torch import Tensor, nn

from tbps.convert.foreign import convert
from tbps.convert.pretrained import load_bert
from tbps.convert.wrappers import unwrapped

State = dict[str, Tensor]


class Trunk(nn.Module):
    """Where torch and its wrappers themselves make the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_encoder = nn.Linear(2, 2)


def compiled_in_the_middle(state: Mapping[str, Tensor]) -> State:
    return {key.replace("encoder.", "encoder._orig_mod.", 1): tensor for key, tensor in state.items()}


def before_all(*levels: str) -> Callable[[State], State]:
    return lambda state: {".".join((*levels, key)): tensor for key, tensor in state.items()}


def before_some(state: State) -> State:
    """One part was wrapped by DDP, the rest not."""
    return {f"module.{key}" if key.startswith("visual") else key: tensor for key, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], object]] = {
    "ddp": before_all("module"),
    "ddp twice": before_all("module", "module"),
    "ddp on some": before_some,
    "ddp inside": lambda state: {key.replace("encoder.", "encoder.module.", 1): state[key] for key in state},
    "model": before_all("model"),
    "compiled": before_all("_orig_mod"),
    "compiled inside": compiled_in_the_middle,
    "all of them": lambda state: before_all("module", "model", "_orig_mod")(compiled_in_the_middle(before_some(state))),
    "lightning": lambda state: {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**before_all("model")(state), "loss.weight": torch.ones(2)},
        "optimizer_states": [{"state": {}}],
    },
    "deepspeed": lambda state: {"module": before_all("module")(state), "optimizer": None, "global_steps": 4},
    "fsdp": before_all("_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    "a name of their own": before_all("searcher", "backbone"),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("kind", ["albef", "mars"])
def test_a_wrapped_model_converts_as_the_bare_one(tmp_path: Path, kind: str, wrapping: str) -> None:
    official = Recorded(kind).part("weights.")
    torch.save(official, tmp_path / "bare.pth")
    torch.save(WRAPPED[wrapping](official), tmp_path / "wrapped.pth")
    convert(tmp_path / "bare.pth", tmp_path / "bare.safetensors")
    report = convert(tmp_path / "wrapped.pth", tmp_path / "wrapped.safetensors")
    bare, found = load_file(tmp_path / "bare.safetensors"), load_file(tmp_path / "wrapped.safetensors")
    assert len(bare) > 60 and found.keys() == bare.keys()
    assert all(torch.equal(found[name], bare[name]) for name in bare)
    assert f": {kind} weights" in report and ("without a place" in report) == (wrapping == "lightning")


def test_keys_that_torch_itself_makes() -> None:
    model = Trunk()
    model.visual_encoder = torch.compile(model.visual_encoder)  # type: ignore[assignment]
    state = torch.compile(model).state_dict()
    assert "_orig_mod.visual_encoder._orig_mod.weight" in state
    assert list(unwrapped(state, "a.pth")) == ["visual_encoder.weight", "visual_encoder.bias"]


@pytest.mark.parametrize("prefix", ["0.auto_model.", "model.text.", "text_encoder.", "bert_model.bert."])
def test_bert_inside_another_model(tmp_path: Path, prefix: str) -> None:
    model = bert("BertModel")
    torch.save({f"{prefix}{key}": tensor for key, tensor in model.state_dict().items()}, tmp_path / "a.bin")
    method = tiny("rasa")
    load_bert(method, str(tmp_path / "a.bin"))
    compare_text(method, model)
    convert(tmp_path / "a.bin", tmp_path / "a.safetensors", kind="bert")
    assert "online.text_encoder.words.weight" in load_file(tmp_path / "a.safetensors")


def test_one_tensor_under_two_keys_counts_once_and_two_values_are_refused() -> None:
    same = {"module.temp": torch.ones(2), "temp": torch.ones(2)}
    assert list(unwrapped(same, "a.pth")) == ["temp"]
    with pytest.raises(ValueError, match=r"a\.pth: module\.temp and temp are both temp of the bare model and differ"):
        unwrapped({**same, "temp": torch.zeros(2)}, "a.pth")


def test_several_models_in_a_file() -> None:
    state = {"visual_encoder.cls_token": torch.ones(1), "text_encoder.bert.x": torch.ones(1)}
    ema = {f"ema.{key}": 2 * tensor for key, tensor in state.items()}
    assert unwrapped({**ema, **state}, "a.pth").keys() == {**ema, **state}.keys(), "the one without a name is meant"
    student = {f"student.{key}": tensor for key, tensor in state.items()}
    with pytest.raises(ValueError, match=r"a\.pth: holds several models, under ema\. and student\., expected one"):
        unwrapped({**ema, **student}, "a.pth")

"""What a method is without doing anything itself: defaults, and sentences for what it must define."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Needs, Text
from tbps.methods.method import Method
from tbps.methods.registry import build_method


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.checkpointing = False


class Plain(Method):
    def __init__(self) -> None:
        super().__init__(weights={"itc": 1.0})
        self.block, self.head = Block(), nn.Linear(2, 2)


def test_defaults() -> None:
    method = Plain()
    method.before_first_step()
    method.after_step()
    assert method.first_step_in_words() == "" and method.matcher() is None
    assert method.untrained(reranks=True) == []
    method.head.requires_grad_(False)
    assert method.untrained(reranks=True) == ["head.weight", "head.bias"]
    method.set_activation_checkpointing(True)
    assert method.block.checkpointing


def test_checkpointing_that_has_no_effect_is_refused() -> None:
    method = Method(weights={})
    method.set_activation_checkpointing(False)
    with pytest.raises(
        ValueError,
        match=r"loop\.activation_checkpointing is on, and Method has no blocks that can be computed again; turn it off",
    ):
        method.set_activation_checkpointing(True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda method: method(None, None), r"Plain has no losses: define forward\(self, batch, draws\)"),
        (lambda method: method.embed_images(None), "Plain cannot be evaluated: define embed_images"),
        (lambda method: method.embed_captions(None), "Plain cannot be evaluated: define embed_captions"),
    ],
)
def test_what_a_method_must_define_is_said(call: Any, message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        call(Plain())


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(MethodConfig):
    MODULE: ClassVar[str] = "somebodys_method"

    def needs(self, image_px: tuple[int, int]) -> Needs:
        return Needs(text=Text(size=9, max_tokens=9))


@pytest.mark.parametrize("made", [Plain, nn.Identity])
def test_only_a_method_is_built(made: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("somebodys_method")
    module.build = lambda config, *, image_px: made()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_method", module)
    if made is Plain:
        assert isinstance(build_method(Config(), image_px=(8, 8)), Plain)
        return
    with pytest.raises(ValueError, match=r"somebodys_method\.build returned a Identity, expected a subclass of"):
        build_method(Config(), image_px=(8, 8))


def test_a_methods_modules_are_moved_and_saved_like_any_other() -> None:
    assert Plain().to(torch.float64).head.weight.dtype == torch.float64

"""What a run makes of the images of its data config, and of the further fields that its method asks for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes import mars
from tbps import run as run_module
from tbps.config.data import Pixels
from tbps.config.methods.mars import Mars
from tbps.config.needs import Needs
from tbps.config.run import Run
from tbps.data.fields import Field
from tbps.data.pairs import PairSource, open_pairs
from tbps.methods.registry import build_method
from tbps.run import make_parts
from tbps.synthetic.world import write_world
from tbps.text.word_pieces import train_vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking(Mars):
    """MARS, with further fields asked for."""

    asked: tuple[str, ...] = ()

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """As MARS's, with the fields."""
        return replace(Mars.needs(self, image_px), fields=self.asked)


def read_length(source: PairSource, index: int) -> Tensor:
    return torch.tensor(len(source.caption(index)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "cuhk", benchmark="cuhk-pedes", num_identities=24, seed=3, workers=1, image_px=(64, 32))
    run = mars.tiny()
    source = open_pairs(replace(run.data, root=str(folder / "cuhk")))
    captions = [source.caption(pair) for pair in range(len(source))]
    train_vocabulary(captions, size=600, path=folder / "vocab.txt")
    return folder


def run_of(world: Path, *asked: str, **changes: Any) -> Run:
    """MARS's tiny on the world."""
    tiny = mars.tiny()
    method: Any = tiny.method
    captioning = replace(tiny.data.captioning, vocabulary=str(world / "vocab.txt"))
    data = replace(tiny.data, root=str(world / "cuhk"), captioning=captioning, batch_pairs=16, workers=0, **changes)
    words = len((world / "vocab.txt").read_text().splitlines())
    settings = {one.name: getattr(method, one.name) for one in fields(method)}
    bert = replace(method.bert, vocabulary_size=words)
    return replace(tiny, method=Asking(**{**settings, "bert": bert, "asked": asked}), data=data)


def test_the_fields_that_a_method_asks_for_are_in_its_batches(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps.methods.albef.mars.FIELDS", {"length": Field(read=read_length)}, raising=False)
    parts = make_parts(run_of(world, "parsing_atr", "length"))
    for host in parts.make_batches(start_step=0, num_steps=2, rank=0, world_size=1):
        assert host.maps["parsing_atr"].shape == (16, 64, 32) and host.maps["parsing_atr"].any()
        assert host.fields["length"].shape == (16,) and host.fields["length"].min() > 10


def test_a_field_that_is_not_there_stops_a_run_before_training(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = r"^the method's needs.fields names 'pose', expected one of attributes, parsing_atr, .*; change it, or add"
    with pytest.raises(ValueError, match=sentence):
        make_parts(run_of(world, "pose"))
    monkeypatch.setattr("tbps.methods.albef.mars.FIELDS", {"length": Field(read=read_length)}, raising=False)
    with pytest.raises(ValueError, match="names 'pose', expected one of attributes, length, parsing_atr,"):
        make_parts(run_of(world, "pose"))
    with pytest.raises(ValueError, match=r"^pair \S+#0, field attributes: cuhk-pedes at \S+ annotates no attributes;"):
        make_parts(run_of(world, "attributes"))


@pytest.mark.parametrize("test_pixels", [None, Pixels(mean=(0.1, 0.2, 0.3), interpolation="bilinear")])
def test_evaluation_has_the_pixels_of_the_test_where_they_differ(
    world: Path, monkeypatch: pytest.MonkeyPatch, test_pixels: Pixels | None
) -> None:
    seen: list[Pixels] = []

    def evaluate(*_: Any, pixels: Pixels, **__: Any) -> Any:
        seen.append(pixels)
        return SimpleNamespace(values=dict)

    monkeypatch.setattr(run_module, "evaluate", evaluate)
    own = Pixels(mean=(0.5, 0.5, 0.5))
    run = run_of(world, pixels=own, test_pixels=test_pixels)
    validate = make_parts(run).validate
    assert validate is not None
    validate(build_method(run.method, image_px=run.data.image_px), 0)
    assert seen == [test_pixels or own]

"""Whether converted weights are all there and are numbers: what a file of a kind must hold, by our names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tbps.convert.clip_names import missing_names
from tbps.convert.official_names import ENCODER_PARTS

_IMAGE, _TEXT = "image_encoder.", "text_encoder."
_IMAGE_ENCODER = "online.image_encoder."
_CROSS = ".cross_attention."
_ENDINGS = ("weight", "bias")
_PROJECTIONS = tuple(f"online.{side}_projection.{part}" for side in ("image", "text") for part in ("weight", "bias"))
_MATCHING = ("itm_head.weight", "itm_head.bias", "temperature")
_ESSENTIAL: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bert": ((_TEXT,), ()),
    "vit": ((_IMAGE,), ()),
    "albef": ((_IMAGE, _TEXT), (*_PROJECTIONS, *_MATCHING)),
    "rasa": ((_IMAGE, _TEXT), (*_PROJECTIONS, *_MATCHING, "prd_head.weight", "prd_head.bias")),
    "mars": ((_IMAGE, _TEXT), (*_PROJECTIONS, *_MATCHING, "mae_decoder.positions", "mae_decoder.pixels.weight")),
    "swin": ((), ()),
    "aptm": ((_TEXT,), (*_PROJECTIONS, "temperature", *(f"itm_head.{n}.{part}" for n in (0, 1, 3) for part in _ENDINGS))),
}
"""Of each kind: whole encoders, and single tensors. Heads of losses that a run may leave out are none."""


def check_complete(tensors: Mapping[str, Tensor], kind: str, source: str) -> None:
    """ValueError, with names, where essential tensors of the kind are missing or a weight is no floating-point number."""
    if missing := missing_tensors(tensors, kind):
        raise ValueError(
            f"{source}: taken for {kind} weights, and {len(missing)} essential tensors are missing ({_some(missing)}),"
            f" expected whole {kind} weights; get the file again, or the one that holds the whole model"
        )
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or name.startswith("queue.")):
            raise ValueError(
                f"{source}: {name} is of type {tensor.dtype}, expected floating-point numbers; save it as such where it was"
                " made"
            )
    check_finite(tensors, source)


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """ValueError, with names, where a number is NaN or infinite."""
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"{source}: {len(broken)} tensors hold NaN or infinite numbers ({_some(broken)}), expected finite ones; take a"
            " checkpoint from before training broke"
        )


def missing_tensors(names: Iterable[str], kind: str) -> list[str]:
    """Essential names of the kind that are not there; every layer up to the last one found must be whole."""
    found = set(names)
    if kind in ("clip", "irra"):  # of IRRA's heads each may be left out with its loss
        return missing_names(found)
    parts, single = _ESSENTIAL[kind]
    expected = [name for part in parts for name in _expected(part, found, crosses=kind not in ("bert", "vit"))]
    if kind in ("swin", "aptm"):
        expected += _expected_of_swin(found)
    return [name for name in (*expected, *single) if name not in found]


def _expected(part: str, found: set[str], *, crosses: bool) -> list[str]:
    numbers = [int(match[1]) for name in found if (match := re.match(rf"online\.{part}(?:layers|blocks)\.(\d+)\.", name))]
    last = max(numbers, default=0)
    # Cross-attention: all of it in each layer that has some, and in the last one, which every cross encoder has.
    crossing = {int(name.split(".")[3]) for name in found if name.startswith(f"online.{part}") and _CROSS in name}
    crossing = crossing | {last} if crosses else set()
    expected = []
    for template, _ in ENCODER_PARTS:
        if not template.startswith(part):
            continue
        for number in range(last + 1) if ".#." in template else (0,):
            if _CROSS not in template or number in crossing:
                name = f"online.{template.replace('#', str(number))}"
                endings = ("weight", "bias") if name.endswith("*") else ("",)
                expected += [name.removesuffix("*") + ending for ending in endings]
    return expected


_SWIN_STAGE = re.compile(r"online\.image_encoder\.stages\.(\d+)\.blocks\.(\d+)\.")


def _expected_of_swin(found: set[str]) -> list[str]:
    """Every block up to the last one of each stage, merging behind all stages but the last."""
    blocks: dict[int, int] = {}
    for name in found:
        if match := _SWIN_STAGE.match(name):
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(block, blocks.get(stage, 0))
    last = max(blocks, default=0)
    linear = ["patch_embed", "patch_norm", "norm"]
    single = []
    for stage in range(last + 1):
        if stage < last:
            linear.append(f"stages.{stage}.merge.norm")
            single.append(f"stages.{stage}.merge.reduction.weight")
        for block in range(blocks.get(stage, 0) + 1):
            start = f"stages.{stage}.blocks.{block}"
            linear += [f"{start}.{part}" for part in ("norm1", "qkv", "out", "norm2", "fc1", "fc2")]
            single.append(f"{start}.position_bias")
    return [_IMAGE_ENCODER + name for name in single + [f"{part}.{end}" for part in linear for end in _ENDINGS]]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

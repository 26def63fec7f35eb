"""Swin weights into a method's image encoder: by the names of its authors' files, of timm or of Hugging Face.

Tables of position biases are made for another window by Swin's and APTM's own rule, `resize_position_bias`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps.convert.completeness import check_complete
from tbps.convert.hugging_face import read_pretrained
from tbps.convert.naming import Names, Row, rename
from tbps.convert.official import Converted
from tbps.convert.weights import LoadReport, place
from tbps.nn.swin import SwinTransformer

Float = NDArray[np.float64]

PREFIX = "online.image_encoder."
_BLOCK, _OURS = "layers.#.blocks.#", "stages.#.blocks.#"
SWIN_PARTS: tuple[Row, ...] = (
    ("patch_embed.*", ("patch_embed.proj.*",)),
    ("patch_norm.*", ("patch_embed.norm.*",)),
    (f"{_OURS}.norm1.*", (f"{_BLOCK}.norm1.*",)),
    (f"{_OURS}.position_bias", (f"{_BLOCK}.attn.relative_position_bias_table",)),
    (f"{_OURS}.qkv.*", (f"{_BLOCK}.attn.qkv.*",)),
    (f"{_OURS}.out.*", (f"{_BLOCK}.attn.proj.*",)),
    (f"{_OURS}.norm2.*", (f"{_BLOCK}.norm2.*",)),
    (f"{_OURS}.fc1.*", (f"{_BLOCK}.mlp.fc1.*",)),
    (f"{_OURS}.fc2.*", (f"{_BLOCK}.mlp.fc2.*",)),
    ("stages.#.merge.norm.*", ("layers.#.downsample.norm.*",)),
    ("stages.#.merge.reduction.weight", ("layers.#.downsample.reduction.weight",)),
    ("norm.*", ("norm.*",)),
)
"""Our names in the encoder, and those of the authors' files, which APTM has too."""
_HUGGING_FACE: tuple[Row, ...] = (
    ("patch_embed.*", ("embeddings.patch_embeddings.projection.*",)),
    ("patch_norm.*", ("embeddings.norm.*",)),
    (f"{_OURS}.norm1.*", (f"encoder.{_BLOCK}.layernorm_before.*",)),
    (f"{_OURS}.position_bias", (f"encoder.{_BLOCK}.attention.self.relative_position_bias_table",)),
    (f"{_OURS}.qkv.*", tuple(f"encoder.{_BLOCK}.attention.self.{part}.*" for part in ("query", "key", "value"))),
    (f"{_OURS}.out.*", (f"encoder.{_BLOCK}.attention.output.dense.*",)),
    (f"{_OURS}.norm2.*", (f"encoder.{_BLOCK}.layernorm_after.*",)),
    (f"{_OURS}.fc1.*", (f"encoder.{_BLOCK}.intermediate.dense.*",)),
    (f"{_OURS}.fc2.*", (f"encoder.{_BLOCK}.output.dense.*",)),
    ("stages.#.merge.norm.*", ("encoder.layers.#.downsample.norm.*",)),
    ("stages.#.merge.reduction.weight", ("encoder.layers.#.downsample.reduction.weight",)),
    ("norm.*", ("layernorm.*",)),
)
_NAMES = Names([(f"{PREFIX}{ours}", foreign) for ours, foreign in (*SWIN_PARTS, *_HUGGING_FACE)])
_COMPUTED = (".relative_position_index", ".attn_mask")
"""Endings of what official files store although it follows from the sizes."""
_TABLE = re.compile(r"(?:swin\.)?(?:encoder\.)?layers\.0\.blocks\.0\.attn?\w*\.(?:self\.)?relative_position_bias_table")


def is_swin(keys: Iterable[str]) -> bool:
    """Whether the keys are those of a Swin transformer alone."""
    return any(_TABLE.fullmatch(key) for key in keys)


def computed(keys: Iterable[str]) -> list[str]:
    """Keys of buffers that follow from the sizes of a Swin."""
    return [key for key in keys if key.endswith(_COMPUTED)]


def from_swin(state: Mapping[str, Tensor]) -> Converted:
    """A Swin's tensors under our names. A classification head has no place."""
    left_out = computed(state)
    kept = {key: tensor for key, tensor in state.items() if key not in left_out}
    merging = {int(match[1]) for key in kept if (match := re.match(r"layers\.(\d+)\.downsample\.", key))}
    if merging and 0 not in merging:  # timm merges at the start of a stage
        kept = {_one_stage_earlier(key): tensor for key, tensor in kept.items()}
    tensors, unplaced = rename({key.removeprefix("swin."): tensor for key, tensor in kept.items()}, _NAMES.ours)
    return Converted(tensors=tensors, unplaced=unplaced, duplicates=left_out)


def load_swin(method: nn.Module, name_or_path: str) -> LoadReport:
    """Place a Swin in the image encoder, its tables of position biases resized to our windows.

    ValueError: nothing readable under that name, no Swin, another architecture.
    """
    found = read_pretrained(name_or_path)
    converted = from_swin(found.weights.tensors)
    if not converted.tensors.keys() & {f"{PREFIX}stages.0.blocks.0.position_bias"}:
        keys = ", ".join(list(found.weights.tensors)[:3])
        raise ValueError(
            f"{found.weights.source}: no Swin weights (found {keys}, ...), expected a Swin, which this method's image"
            " encoder is; BERT weights belong in start.bert"
        )
    check_complete(converted.tensors, "swin", found.weights.source)
    encoder = method.online.image_encoder  # type: ignore[union-attr]
    assert isinstance(encoder, SwinTransformer)
    resized = fit_position_biases(encoder, converted.tensors)
    report = place(method, converted.tensors, source=name_or_path)
    report.missing = [name for name in report.missing if name.startswith(PREFIX)]
    report.resized += resized
    report.unplaced += converted.unplaced
    return report


def fit_position_biases(encoder: SwinTransformer, tensors: dict[str, Tensor]) -> list[str]:
    """Resize, in `tensors`, the tables that belong to another window than the encoder's; returns their names."""
    resized = []
    for name, own in encoder.state_dict().items():
        table_TH = tensors.get(f"{PREFIX}{name}")
        if name.endswith(".position_bias") and table_TH is not None and len(table_TH) != len(own):
            tensors[f"{PREFIX}{name}"] = resize_position_bias(table_TH, places=len(own))
            resized.append(f"{PREFIX}{name}")
    return resized


def resize_position_bias(table_TH: Tensor, *, places: int) -> Tensor:
    """Position biases of another window: a bicubic spline through the table, read at integer offsets.

    The offsets of the table are thought to lie at 0, +-1, +-(1 + q), +-(1 + q + q^2), ...: q, found by bisection between
    1.01 and 1.5, is what brings the outermost to that of the new table. Near offsets so keep their biases. For a smaller
    window q stays at 1.01, and the table is little more than cut to its centre (APTM's last stage: 13 x 13 to 7 x 7).

    table_TH (T, H), T = side * side; places: T of the new window. Returns (places, H), the same tensor for equal windows.
    Source: microsoft/Swin-Transformer and Shuyu-XJTU/APTM models/swin_transformer.py, with scipy's interp2d, which newer
    versions of scipy do not have; its cubic spline is the one with "not-a-knot" ends, held constant beyond them.
    ValueError: a table that is not square.
    """
    side, new_side = round(len(table_TH) ** 0.5), round(places**0.5)
    if side * side != len(table_TH) or side % 2 == 0:
        raise ValueError(
            f"a table of position biases has {len(table_TH)} rows, expected the square of an odd number; get the file again"
        )
    if side == new_side:
        return table_TH
    steps, reach = np.arange(side // 2), new_side // 2
    ratio = _ratio(len(steps), reach)
    distance = np.cumsum(ratio**steps)
    source = np.concatenate([-distance[::-1], [0.0], distance])
    spline = _spline_matrix(source, np.arange(-reach, reach + 1, dtype=np.float64))
    table = table_TH.double().numpy().reshape(side, side, -1)
    resized = np.einsum("rs,ct,sth->rch", spline, spline, table).reshape(places, -1)
    return torch.from_numpy(resized).to(table_TH.dtype)


def _ratio(terms: int, reach: int) -> float:
    """The q between 1.01 and 1.5 for which 1 + q + ... of so many terms is `reach`, to 1e-6, or one of the ends."""
    low, high, middle = 1.01, 1.5, 1.01
    while high - low > 1e-6:
        middle = (low + high) / 2
        if (1 - middle**terms) / (1 - middle) > reach:
            high = middle
        else:
            low = middle
    return middle


def _spline_matrix(knot: Float, at: Float) -> Float:
    """(len(at), len(knot)): by what values at the knots are multiplied to have their cubic spline at `at`.

    On each interval a spline is told by the values and second derivatives at its ends. The derivatives solve a linear
    system: slopes are continuous inside, and third derivatives at the first and last inner knot too.
    """
    count, gap = len(knot), np.diff(knot)
    system, right = np.zeros((count, count)), np.zeros((count, count))
    for i in range(1, count - 1):
        system[i, i - 1 : i + 2] = gap[i - 1], 2 * (gap[i - 1] + gap[i]), gap[i]
        right[i, i - 1 : i + 2] = 6 / gap[i - 1], -6 / gap[i - 1] - 6 / gap[i], 6 / gap[i]
    system[0, :3] = gap[1], -gap[0] - gap[1], gap[0]
    system[-1, -3:] = gap[-1], -gap[-2] - gap[-1], gap[-2]
    second = np.linalg.solve(system, right)
    at = np.clip(at, knot[0], knot[-1])
    left = np.clip(np.searchsorted(knot, at, side="right") - 1, 0, count - 2)
    width, before, after = gap[left], at - knot[left], knot[left + 1] - at
    unit = np.eye(count)
    curve = (after**3 / width - after * width)[:, None] * second[left] / 6
    curve += (before**3 / width - before * width)[:, None] * second[left + 1] / 6
    return curve + (after / width)[:, None] * unit[left] + (before / width)[:, None] * unit[left + 1]


def _one_stage_earlier(key: str) -> str:
    return re.sub(r"^layers\.(\d+)(?=\.downsample\.)", lambda match: f"layers.{int(match[1]) - 1}", key)

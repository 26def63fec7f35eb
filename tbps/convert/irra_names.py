"""Names of IRRA's tensors, as its official checkpoints have them and as ours are, in both directions.

CLIP's towers lie under `base_model.`, without a logit scale: it is a constant that is not stored. Most of an official file
is in half precision, in which the official code trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from tbps.convert.clip_names import POSITIONS, attention_rows, block_rows, from_clip, join_fused, split_fused, to_clip
from tbps.convert.naming import Names, Row, rename

TOWERS = "base_model."
_CROSS = "cross_former."
ROWS: tuple[Row, ...] = (
    ("classifier.*", ("classifier.*",)),
    *attention_rows(f"{_CROSS}cross_attention", "cross_attn"),
    *block_rows(f"{_CROSS}blocks", "cross_modal_transformer"),
    (f"{_CROSS}norm_text.*", ("ln_pre_t.*",)),
    (f"{_CROSS}norm_image.*", ("ln_pre_i.*",)),
    (f"{_CROSS}norm_post.*", ("ln_post.*",)),
    ("word_head.dense.*", ("mlm_head.dense.*",)),
    ("word_head.norm.*", ("mlm_head.ln.*",)),
    ("word_head.words.*", ("mlm_head.fc.*",)),
)
"""What IRRA has beside the towers, after `split_fused`."""
_NAMES = Names(ROWS)
_HEADS = ("classifier.", "cross_attn.", "mlm_head.")
PUBLISHED_GRID = (24, 8)
"""Patches of images of 384 x 128, the size of all published checkpoints."""


def is_irra(keys: Iterable[str]) -> bool:
    """Whether the keys are those of an IRRA with a head, not of its towers alone."""
    keys = list(keys)
    return any(key.startswith(TOWERS) for key in keys) and any(key.startswith(_HEADS) for key in keys)


def irra_grid(tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Rows and columns of patches, where there are as many as in published checkpoints; None = nothing says them."""
    patches = len(tensors[POSITIONS]) - 1 if POSITIONS in tensors else 0
    return PUBLISHED_GRID if patches == PUBLISHED_GRID[0] * PUBLISHED_GRID[1] else None


def from_irra(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Official tensors under our names, and the keys without a place."""
    towers = {key.removeprefix(TOWERS): tensor for key, tensor in state.items() if key.startswith(TOWERS)}
    tensors, unplaced = from_clip(towers)
    rest, other = rename(
        split_fused({key: tensor for key, tensor in state.items() if not key.startswith(TOWERS)}), _NAMES.ours
    )
    return tensors | rest, sorted([f"{TOWERS}{key}" for key in unplaced] + other)


def to_irra(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: our tensors, or gradients of them, under official names."""
    towers = {f"{TOWERS}{key}": tensor for key, tensor in to_clip(tensors).items()}
    return towers | join_fused({foreign: tensor for name, tensor in tensors.items() for foreign in _NAMES.foreign(name)})

"""Names of APTM's tensors, as its official checkpoints have them and as ours are, in both directions.

Official files hold `model` and `config`; beside the weights they hold the word head's output twice and what follows from the
sizes: numbered positions, and each Swin block's offsets and mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from tbps.convert.naming import Names, Row, rename
from tbps.convert.official import Converted, stored_twice, with_duplicates
from tbps.convert.official_names import ENCODER_PARTS
from tbps.convert.swin import PREFIX, SWIN_PARTS, computed

_OFFICIAL_SWIN = "vision_encoder."


def _with_bert_level(foreign: str) -> str:
    for part in ("embeddings.", "encoder."):
        if foreign.startswith(f"text_encoder.{part}"):
            return foreign.replace("text_encoder.", "text_encoder.bert.", 1)
    return foreign


ROWS: tuple[Row, ...] = (
    *(
        (f"online.{ours}", tuple(_with_bert_level(name) for name in foreign))
        for ours, foreign in ENCODER_PARTS
        if not ours.startswith("image_encoder.")
    ),
    *((f"{PREFIX}{ours}", tuple(f"{_OFFICIAL_SWIN}{name}" for name in foreign)) for ours, foreign in SWIN_PARTS),
    ("temperature", ("temp",)),
    ("itm_head.#.*", ("itm_head.#.*",)),
)
_NAMES = Names(ROWS)
_SWIN_NAMES = Names(SWIN_PARTS)


def is_aptm(keys: Iterable[str]) -> bool:
    """Whether the keys are those of an APTM."""
    keys = list(keys)
    return any(key.startswith(f"{_OFFICIAL_SWIN}layers.") for key in keys) and any(
        key.startswith("text_encoder.bert.") for key in keys
    )


def has_swin(names: Iterable[str]) -> bool:
    """Whether our names are those of a method whose image encoder is a Swin."""
    return any(name.startswith(f"{PREFIX}stages.") for name in names)


def from_aptm(state: Mapping[str, Tensor]) -> Converted:
    """Official tensors under our names; every key is placed, a checked duplicate, follows from the sizes, or is reported."""
    left_out = [*stored_twice(state), *computed(state)]
    tensors, unplaced = rename({key: tensor for key, tensor in state.items() if key not in left_out}, _NAMES.ours)
    return Converted(tensors=tensors, unplaced=unplaced, duplicates=left_out)


def to_aptm(tensors: Mapping[str, Tensor], *, duplicates: bool = False) -> dict[str, Tensor]:
    """The inverse: our tensors, or gradients of them, under official names; duplicates: with what files store twice."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        keys = _NAMES.foreign(name)
        if keys:
            out |= dict(zip(keys, tensor.chunk(len(keys)) if len(keys) > 1 else [tensor], strict=True))
    return with_duplicates(out, bert_level=True) if duplicates else out


def swin_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An image encoder's own state under the keys of Swin's authors."""
    return {key: tensor for name, tensor in tensors.items() for key in _SWIN_NAMES.foreign(name)}

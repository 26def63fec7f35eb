"""What one training step is given: images, captions, identities and every random choice, as plain tensors.

Shapes: B pairs, V views, L tokens of the longest caption, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tbps.data.contrast_scope import ContrastScope
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class Batch:
    """Whole groups of consecutive pairs of the global batch. Images are on the device, captions on the host."""

    image_BCHW: Tensor
    """(B, 3, H, W) float32, normalised: the view for the online encoder."""
    second_image_BCHW: Tensor | None = None
    """(B, 3, H, W) float32, normalised: the view for the momentum encoder; None where the method wants no second view."""
    own: Captions
    """The caption annotated for the image."""
    paired: Captions
    """The caption the image is paired with in this step: the own one, or, where the method wants weak positives, another of
    the same identity."""
    replaced_B: Tensor
    """(B,) int64 on the device: 1 where `paired` is a weak positive, else 0."""
    identity_B: Tensor
    """(B,) int64 on the device."""
    group_pairs: int
    """Consecutive pairs that contrast with each other; B is a multiple of it."""
    epoch: float
    """Progress in epochs, fractional: pairs seen before this step over pairs of the training split."""
    first_group: int = 0
    """Number of this batch's first group in the global batch: dropout is keyed by groups."""
    last_stage: bool = True
    """Whether the step belongs to the last stage of the schedule; there is one stage, or two."""
    reworded: Captions | None = None
    """A copy of the own caption with other words; None where the method wants none."""
    prompts: Captions | None = None
    """The method's own sentences; None where it has none."""
    fields: dict[str, Tensor] = field(default_factory=dict)
    """Further fields of each pair that the method asks for, on the device, by name; B first. Label maps are (B, H, W) uint8
    and lie over `image_BCHW`."""
    erased_BHW: Tensor | None = None
    """(B, H, W) bool on the device: pixels of `image_BCHW` that were erased; None where nothing is."""
    scope: ContrastScope = field(default=None)  # type: ignore[assignment]
    """Gives the rows of the whole global batch, to a method that contrasts all of it; by default this batch is all of it."""

    def __post_init__(self) -> None:
        if self.scope is None:
            self.scope = ContrastScope(self.identity_B)

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.own.lengths)

    @property
    def num_groups(self) -> int:
        """B / group_pairs."""
        return self.num_pairs // self.group_pairs

    @property
    def group_B(self) -> NDArray[np.int64]:
        """Number of each pair's group in the global batch."""
        return self.first_group + np.arange(self.num_pairs) // self.group_pairs


@dataclass(kw_only=True)
class Draws:
    """Every random choice of a step but dropout, as numbers of which a method makes its choices."""

    numbers: dict[str, Tensor]
    """Uniform in [0, 1), float64, on the host, by the names that the method's needs list: (B, numbers) for each pair, or
    (B, numbers, L) for each token of the own caption, 1 beyond its end."""
    recorded: dict[str, Tensor] = field(default_factory=dict)
    """Choices that are taken instead of being made: tests replay here, by name, what other code chose."""

    def __getitem__(self, name: str) -> Tensor:
        """The numbers of that name."""
        return self.numbers[name]


@dataclass(kw_only=True)
class HostBatch:
    """What a loader worker returns: uint8 images and how to make V views of them on the device, one or two.

    Tensors that lie in it directly, or in a dict, go to the device; what `Captions` and `Draws` hold stays on the host.
    """

    pixels_BCHW: Tensor
    """(B, 3, H, W) uint8, decoded and resized once."""
    second_pixels_BCHW: Tensor | None
    """(B, 3, H, W) uint8 when a second view needs other pixels (random crops); else None."""
    flip_BV: Tensor
    """(B, V) bool: mirror each view."""
    shift_BV2: Tensor | None
    """(B, V, 2) int64: top-left corner of the crop from the zero-padded image, per view (row, column); None = no crop."""
    erase_BV4: Tensor | None
    """(B, V, 4) int64: top, left, height, width of the erased box per view, height 0 = none; None = no erasing."""
    own: Captions
    paired: Captions
    replaced_B: Tensor
    identity_B: Tensor
    draws: Draws
    keys: tuple[str, ...]
    """Pair keys, for messages."""
    epoch: float
    reworded: Captions | None = None
    prompts: Captions | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)
    """(B, H, W) uint8 label maps by their field's name, which are moved as the first view is. Sides are exchanged already
    where that is mirrored."""
    fields: dict[str, Tensor] = field(default_factory=dict)
    """The other further fields by name, B first."""

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> HostBatch:
        """The same with `change` made to every tensor that goes to the device."""
        changed: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                changed[one.name] = change(value)
            elif isinstance(value, dict):
                changed[one.name] = {name: change(tensor) for name, tensor in value.items()}
        return replace(self, **changed)

    def pin_memory(self) -> HostBatch:
        """What goes to the device in page-locked memory; DataLoader's pinning thread calls it."""
        return self.each_tensor(Tensor.pin_memory)

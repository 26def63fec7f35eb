"""What one training step is given: images, captions, identities and every random choice, as plain tensors.

Shapes: B pairs, L tokens of the longest caption, N patches, C chunks, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    second_image_BCHW: Tensor
    """(B, 3, H, W) float32, normalised: the view for the momentum encoder."""
    own: Captions
    """The caption annotated for the image."""
    paired: Captions
    """The caption the image is paired with in this step: the own one, or a weak positive of the same identity."""
    replaced_B: Tensor
    """(B,) int64 on the device: 1 where `paired` is a weak positive, else 0."""
    identity_B: Tensor
    """(B,) int64 on the device."""
    group_pairs: int
    """Consecutive pairs that contrast with each other; B is a multiple of it."""
    epoch: float
    """How many epochs of pairs came before this step."""
    first_group: int = 0
    """Number of this batch's first group in the global batch: dropout is keyed by groups."""
    last_stage: bool = True
    """Whether the step belongs to the last stage of the schedule; there is one stage, or two."""
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
class TokenMask:
    """Random fields of BERT masking, one entry per token position (host tensors)."""

    select_BL: Tensor
    """(B, L) bool: the position is chosen, before [CLS] and padding are protected."""
    mask_BL: Tensor
    """(B, L) bool, true with 0.8: a chosen position becomes [MASK]."""
    random_BL: Tensor
    """(B, L) bool, true with 0.5: a chosen position that is not [MASK] becomes a random word."""
    word_BL: Tensor
    """(B, L) int64: that random word."""


@dataclass(kw_only=True)
class Draws:
    """Every random choice of a step but dropout. `negative_image_B` to `sampled_word_BL` replay recorded choices."""

    negative_B2: Tensor
    """(B, 2) float64 in [0, 1): places on the cumulated weights of hard negative images (0) and captions (1)."""
    mlm: TokenMask
    mrtd: TokenMask
    word_BL: Tensor
    """(B, L) float64 in [0, 1): places on the cumulated word probabilities of the m-RTD generator."""
    mae_noise_BN: Tensor
    """(B, N) float32 in [0, 1): the patches with the smallest values are kept."""
    negative_image_B: Tensor | None = None
    """(B,) int64 rows of the batch: recorded hard negative image of each caption."""
    negative_caption_B: Tensor | None = None
    """(B,) int64 rows of the batch: recorded hard negative caption of each image."""
    sampled_word_BL: Tensor | None = None
    """(B, L) int64: recorded words of the m-RTD generator."""
    token_BUL: Tensor | None = None
    """(B, U, L) float64 in [0, 1): further numbers for each token of the own caption, as the method asked for."""
    pair_BU: Tensor | None = None
    """(B, U) float64 in [0, 1): further numbers for each pair, as the method asked for."""


@dataclass(kw_only=True)
class HostBatch:
    """What a loader worker returns: uint8 images and how to make both views of them on the device."""

    pixels_BCHW: Tensor
    """(B, 3, H, W) uint8, decoded and resized once."""
    second_pixels_BCHW: Tensor | None
    """(B, 3, H, W) uint8 when the second view needs other pixels (random crops); else None."""
    flip_B2: Tensor
    """(B, 2) bool: mirror the first, second view."""
    shift_B22: Tensor | None
    """(B, 2, 2) int64: top-left corner of the crop from the zero-padded image, per view (row, column); None = no crop."""
    erase_B24: Tensor | None
    """(B, 2, 4) int64: top, left, height, width of the erased box per view, height 0 = none; None = no erasing."""
    own: Captions
    paired: Captions
    replaced_B: Tensor
    identity_B: Tensor
    draws: Draws
    keys: tuple[str, ...]
    """Pair keys, for messages."""
    epoch: float

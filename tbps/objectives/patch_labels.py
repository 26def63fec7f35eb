"""The label of a patch: the one that most of its pixels have in a label map.

Shapes: B images of C channels, H x W pixels, N patches in raster order of X pixels, L labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOT_COUNTED = 255
"""Value of a label map for pixels that do not count for the label of their patch."""
UNLABELLED = -1
"""Label of a patch of which no pixel counts."""


def patches_of(layer_BCHW: Tensor, *, patch_px: int, stride_px: int) -> Tensor:
    """(B, C, H, W) to (B, N, C, X): the pixels of each patch, row by row. Patches overlap where `stride_px` < `patch_px`;
    what is left over at the right and below is in no patch, as in a convolution."""
    patch_BChwpp = layer_BCHW.unfold(2, patch_px, stride_px).unfold(3, patch_px, stride_px)
    return patch_BChwpp.flatten(4).flatten(2, 3).transpose(1, 2)


def label_counts(label_X: Tensor, *, num_labels: int) -> Tensor:
    """(..., X) labels to (..., L) int64: how many of the X pixels have each label; `NOT_COUNTED` is none of them."""
    return (label_X[..., None] == torch.arange(num_labels, device=label_X.device)).sum(-2)


def majority_label(count_L: Tensor) -> Tensor:
    """(..., L) counts to (...) int64: the label of most pixels, of several the smallest; `UNLABELLED` where all are 0.

    Source: BiLMa, Sec. 3.3: "the most frequent label within the token"; that the smallest wins is ours.
    """
    # argmax gives any of several largest on a GPU; these values differ.
    num_labels = count_L.shape[-1]
    preferred_L = count_L * num_labels + torch.arange(num_labels - 1, -1, -1, device=count_L.device)
    return torch.where(count_L.sum(-1) > 0, preferred_L.argmax(-1), UNLABELLED)

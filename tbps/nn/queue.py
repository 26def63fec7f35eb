"""Past momentum features with their identities, oldest overwritten first (ALBEF, arXiv 2107.07651, Sec. 3.2, after MoCo).

Shapes: K places, E features, G pairs of a global batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMPTY = -100


class FeatureQueue(nn.Module):
    """K image features, K caption features, K identities (-100 = nobody's)."""

    image_KE: Tensor
    caption_KE: Tensor
    identity_K: Tensor
    pointer: Tensor

    def __init__(self, *, num_pairs: int, width: int) -> None:
        super().__init__()
        self.register_buffer("image_KE", F.normalize(torch.randn(num_pairs, width), dim=1))
        self.register_buffer("caption_KE", F.normalize(torch.randn(num_pairs, width), dim=1))
        self.register_buffer("identity_K", torch.full((num_pairs,), EMPTY, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def push(self, image_GE: Tensor, caption_GE: Tensor, identity_G: Tensor) -> None:
        """Write a whole global batch, in its order, wrapping around the end."""
        size = len(self.identity_K)
        place_G = (self.pointer + torch.arange(len(identity_G), device=identity_G.device)) % size
        kept = slice(max(0, len(identity_G) - size), None)  # a batch longer than the queue: its last pairs stay
        self.image_KE.index_copy_(0, place_G[kept], image_GE[kept].float())
        self.caption_KE.index_copy_(0, place_G[kept], caption_GE[kept].float())
        self.identity_K.index_copy_(0, place_G[kept], identity_G[kept])
        self.pointer.copy_((self.pointer + len(identity_G)) % size)

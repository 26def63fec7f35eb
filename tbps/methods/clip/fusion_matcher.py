"""Scoring many pairs of image and caption by the fusion, image by image, without a parsing map.

What the fusion computes of an image before it meets a caption comes with the image (`EmbeddedImages.tokens_IPD`), what it
computes of a caption before it meets an image is computed once; the last layer computes [CLS] and the end token alone.
Shapes: Q captions of N tokens in all, F fusion tokens, I images, M pairs, L tokens of the longest caption, E features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tbps.methods.method import PairScorer
from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion, Fused
from tbps.nn.float32 import float32_layers
from tbps.nn.packing import Index, upload
from tbps.text.token_batch import Captions

BLOCK_IMAGES = {"cpu": 2, "cuda": 16}
"""Images that are held at once."""
PAIRS = {"cpu": 32, "cuda": 512}
"""Pairs that are computed at once: each holds all tokens of its image."""
CAPTIONS = 256
"""Captions that are begun at once."""
HIDDEN = -10_000.0
"""Added to the logits of padding, as in tbps/nn/packing.py."""


class MatchHead(nn.Module):
    """From [CLS] and the end token, both as the fusion leaves them, to the logit that they match (Eq. 18)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, fused: Fused) -> Tensor:
        """(S,) float32 logits, computed in float32 from the first wanted row of each stream."""
        ends_SE = torch.cat([fused.image[:, 0], fused.text[:, 0]], dim=1)
        with float32_layers([self], ends_SE.device):
            return self.out(nn.functional.gelu(self.dense(ends_SE.float())))[:, 0].float()


@dataclass(kw_only=True)
class BegunCaptions:
    """Captions as far as they can be computed without an image."""

    state_RE: Tensor
    """Tokens of all captions, one caption after another: first its own tokens, then its fusion tokens."""
    first_Q: Index
    """Row at which each caption begins."""
    tokens_Q: Index
    num_fusion: int


@dataclass(frozen=True, kw_only=True)
class FusionMatcher:
    """The matching head behind the fusion: see `tbps.methods.method.Matcher`."""

    fusion: BottleneckFusion | CrossFusion
    head: MatchHead
    device: torch.device

    @property
    def block_images(self) -> int:
        """Images scored in one call at most."""
        return BLOCK_IMAGES[self.device.type]

    def prepare(self, captions: Captions, hidden_ND: Tensor | None) -> PairScorer:
        """Compute of all captions what needs no image; hidden_ND: their projected tokens, packed."""
        assert hidden_ND is not None
        return partial(self.score, self.begin(captions, hidden_ND))

    @torch.no_grad()
    def begin(self, captions: Captions, hidden_NE: Tensor) -> BegunCaptions:
        """Compute of captions what needs no image, block by block; the result holds no padding."""
        tokens_Q = np.asarray(captions.lengths, np.int64)
        start_Q = np.cumsum(tokens_Q) - tokens_Q
        states, num_fusion = [], 0
        for block in range(0, len(tokens_Q), CAPTIONS):
            tokens, start = tokens_Q[block : block + CAPTIONS], start_Q[block : block + CAPTIONS]
            place, real = _places(tokens)
            row, length = upload([np.where(real, start[:, None] + place, 0), tokens], self.device)
            text_BLE = hidden_NE.index_select(0, row).unflatten(0, real.shape)
            state_BXE = self.fusion.begin_text(text_BLE, _bias(length, real.shape[1]))
            num_fusion = state_BXE.shape[1] - real.shape[1]
            kept = np.concatenate([real, np.ones((len(real), num_fusion), bool)], axis=1)
            (kept_R,) = upload([np.flatnonzero(kept)], self.device)
            states.append(state_BXE.flatten(0, 1).index_select(0, kept_R))
        first_Q = start_Q + num_fusion * np.arange(len(tokens_Q))
        return BegunCaptions(state_RE=torch.cat(states), first_Q=first_Q, tokens_Q=tokens_Q, num_fusion=num_fusion)

    @torch.no_grad()
    def score(self, begun: BegunCaptions, *, image_IPD: Tensor, image_M: Index, caption_M: Index) -> Tensor:
        """Logit of each pair, (M,) float32, in the order given; captions of like lengths are computed together."""
        score_M = torch.empty(len(image_M), device=image_IPD.device)
        order_M = np.argsort(begun.tokens_Q[caption_M], kind="stable")
        step = PAIRS[self.device.type]
        for first in range(0, len(order_M), step):
            pairs = order_M[first : first + step]
            tokens, start = begun.tokens_Q[caption_M[pairs]], begun.first_Q[caption_M[pairs]]
            place, real = _places(tokens)
            text = np.where(real, start[:, None] + place, start[:, None])
            rows = np.concatenate([text, (start + tokens)[:, None] + np.arange(begun.num_fusion)], axis=1)
            row, image, length, where = upload([rows, image_M[pairs], tokens, pairs], self.device)
            fused = self.fusion(
                image_IPD.index_select(0, image),
                begun.state_RE.index_select(0, row).unflatten(0, rows.shape),
                _bias(length, real.shape[1]),
                image_rows=1,
                text_rows=(length - 1)[:, None],
            )
            score_M[where] = self.head(fused)
        return score_M


def _places(tokens: Index) -> tuple[Index, np.ndarray]:
    """0, 1, ... up to the longest, and which of them each caption has."""
    place = np.arange(int(tokens.max()))
    return place, place < tokens[:, None]


def _bias(length_B: Tensor, longest: int) -> Tensor:
    """(B, 1, 1, L): hides padding."""
    return ((torch.arange(longest, device=length_B.device) >= length_B[:, None]) * HIDDEN)[:, None, None]

"""CLIP fine-tuned for retrieval: contrast of every pair of the whole batch with every other one.

    L = a ITC(v, t) + b R-ITC(v, t)

a, b: weights of itc and ritc. v and t are unit rows: the image's [CLS] and the caption's end token, projected. ITC is CLIP's
own loss, or TBPS-CLIP's N-ITC (`positives` = identity, `soft_targets`).
Source: CLIP (arXiv 2103.00020); TBPS-CLIP (arXiv 2308.10045), Flame-Chasers/TBPS-CLIP model/tbps_model.py.

Shapes: B pairs, G pairs of the whole batch, E features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.config.methods.clip import Clip
from tbps.data.batch import Batch, Draws
from tbps.methods.clip.towers import build_towers
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, LossesAndNumbers, Method
from tbps.nn.clip_text import pack_captions
from tbps.nn.clip_towers import ClipTowers
from tbps.objectives.batch_contrast import batch_contrast, bounded_scale
from tbps.objectives.sdm import identity_distribution, similarity_distribution_matching
from tbps.text.token_batch import Captions

RITC_EPS = 1e-2
"""TBPS-CLIP's; IRRA's SDM has 1e-8."""


class ClipMethod(Method):
    """Losses: itc, ritc; each only where it has a weight."""

    encoders = ("towers.image", "towers.text")

    def __init__(
        self,
        *,
        towers: ClipTowers,
        weights: Mapping[str, float],
        log_scale: float,
        positives: Literal["pair", "identity"],
        soft_targets: float,
    ) -> None:
        super().__init__(weights=weights)
        self.positives, self.soft_targets = positives, soft_targets
        self.towers = towers
        self.logit_scale = nn.Parameter(torch.tensor(log_scale))
        """A logarithm, by CLIP's name."""

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Named losses, and numbers for the log; see tbps/methods/method.py."""
        whole = batch.scope.whole(self.contrast_rows(batch, draws))
        identity_G = batch.scope.identity_G
        scale = bounded_scale(self.logit_scale)
        losses: dict[str, Tensor] = {}
        if "itc" in self.weights:
            target_GG = identity_distribution(identity_G)
            if self.positives == "pair":
                target_GG = torch.eye(len(identity_G), device=identity_G.device)
            own_share = self.soft_targets * min(1.0, batch.epoch)
            losses["itc"] = batch_contrast(whole["image"], whole["caption"], target_GG, scale=scale, own_share=own_share)
        if "ritc" in self.weights:
            losses["ritc"] = 0.5 * similarity_distribution_matching(
                whole["image"], whole["caption"], identity_G, logit_scale=scale, eps=RITC_EPS
            )
        return losses, {"logit_scale": scale.detach()}

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Features of the own pairs: all that the losses read of them."""
        return {"image": self._image_features(batch.image_BCHW), "caption": self._caption_features(batch.own)}

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """See tbps/methods/method.py."""
        return EmbeddedImages(feature_IE=self._image_features(image_BCHW))

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """See tbps/methods/method.py."""
        return EmbeddedCaptions(feature_QE=self._caption_features(captions))

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """See tbps/methods/method.py."""
        return F.normalize(self.towers.text.embed_padded(token_id_BL, length_B).float(), dim=-1)

    def _image_features(self, image_BCHW: Tensor) -> Tensor:
        return F.normalize(self.towers.image(image_BCHW, pooled=True).float(), dim=-1)

    def _caption_features(self, captions: Captions) -> Tensor:
        packed = pack_captions(captions.token_ids_BL, captions.lengths, device=self.logit_scale.device)
        return F.normalize(self.towers.text(packed, pooled=True).float(), dim=-1)


def build(config: Clip, *, image_px: tuple[int, int]) -> ClipMethod:
    """The method with random weights."""
    return ClipMethod(
        towers=build_towers(config.towers, image_px=image_px),
        weights=config.weights.by_name(),
        log_scale=config.log_scale,
        positives=config.positives,
        soft_targets=config.soft_targets,
    )

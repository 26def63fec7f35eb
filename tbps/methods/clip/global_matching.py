"""IRRA's two losses of whole images and captions: similarity distributions, and classification of identities.

Shapes: B pairs, G pairs of the whole batch, E features, C identities, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.data.batch import Batch
from tbps.methods.method import LossesAndNumbers
from tbps.objectives.identity_classification import identity_classification
from tbps.objectives.sdm import similarity_distribution_matching


def make_classifier(*, features: int, num_identities: int) -> nn.Linear:
    """The classifier of identities with its start values. ValueError: nobody said how many identities there are."""
    if not num_identities:
        raise ValueError(
            "the number of training identities is 0, expected at least 1: method.weights.identity trains a classifier of"
            " them; set data.num_identities, or that weight to 0"
        )
    classifier = nn.Linear(features, num_identities)
    nn.init.normal_(classifier.weight, std=0.001)
    nn.init.zeros_(classifier.bias)
    return classifier


def match_globally(
    image_BE: Tensor,
    caption_BE: Tensor,
    whole: Mapping[str, Tensor],
    batch: Batch,
    *,
    classifier: nn.Linear | None,
    weights: Mapping[str, float],
    logit_scale: float,
) -> LossesAndNumbers:
    """Losses sdm and identity, each where it has a weight; and how many identities are classified rightly, in per cent.

    image_BE, caption_BE: features before they are normalised; whole: the batch's rows `image` and `caption` (G, E), unit.
    """
    losses: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    if "sdm" in weights:
        losses["sdm"] = similarity_distribution_matching(
            whole["image"], whole["caption"], batch.scope.identity_G, logit_scale=logit_scale
        )
    if classifier is not None:
        image_BC, caption_BC = classifier(image_BE), classifier(caption_BE)
        losses["identity"] = identity_classification(image_BC, caption_BC, batch.identity_B)
        for name, logit_BC in (("image", image_BC), ("caption", caption_BC)):
            numbers[f"identity_of_{name}"] = percent_right(logit_BC, batch.identity_B).mean()
    return losses, numbers


def unit(feature_BE: Tensor) -> Tensor:
    """Rows of length 1, in float32."""
    return F.normalize(feature_BE.float(), dim=-1)


@torch.no_grad()
def percent_right(logit_RC: Tensor, class_R: Tensor) -> Tensor:
    """(R,): 100 where the largest logit is that of the right class, else 0; its mean is the per cent that are right."""
    return (logit_RC.argmax(1) == class_R) * 100.0

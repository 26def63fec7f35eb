"""What a step of APTM holds on its way, and the parts of it that read prompts.

Shapes: B pairs in G groups of g, E features, T prompts, A = T / 2 attributes, K matched prompts, M masked places.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tbps.data.batch import Batch
from tbps.methods.albef.aptm_masks import PromptChoices
from tbps.methods.albef.cross_calls import PackedCaptions, cls_tokens
from tbps.methods.albef.shown_parts import ShownPart
from tbps.nn.packing import Index, upload
from tbps.objectives.attribute_prompts import prompt_labels, two_way_loss
from tbps.objectives.span_masking import MaskedSpans


@dataclass(kw_only=True)
class EncodedText:
    """Captions after the text encoder."""

    captions: PackedCaptions
    hidden_ND: Tensor
    feature_BE: Tensor
    """Unit rows."""


@dataclass(kw_only=True)
class Encoded:
    """A batch after both encoders."""

    token_BPD: Tensor
    image_BE: Tensor
    """Unit rows."""
    texts: dict[str, EncodedText]
    """own, and reworded where a loss reads it."""


@dataclass(kw_only=True)
class Guessed:
    """Words that are to be guessed, by the name of the part that shows them."""

    spans: MaskedSpans
    group_M: Index
    """Group of each masked place, counted in this batch."""


@dataclass(kw_only=True)
class Tasks:
    """All that a step shows to the cross encoder, and what it asks of it."""

    shown: dict[str, ShownPart] = field(default_factory=dict)
    guessed: dict[str, Guessed] = field(default_factory=dict)
    choices: PromptChoices | None = None


def attribute_contrast(
    batch: Batch, image_BE: Tensor, prompt_RE: Tensor, *, temperature: Tensor, smoothing: float
) -> Tensor:
    """Of each attribute of an image, which of two prompts is nearer: unit rows of images, and of all prompts by group."""
    with torch.autocast(image_BE.device.type, enabled=False):
        image_GgE, prompt_GTE = (
            image_BE.unflatten(0, (-1, batch.group_pairs)),
            prompt_RE.unflatten(0, (batch.num_groups, -1)),
        )
        logit_GgT = image_GgE @ prompt_GTE.transpose(1, 2) / temperature
    return two_way_loss(logit_GgT.unflatten(2, (-1, 2)), labels_of(batch), smoothing=smoothing)


def matched_prompts(batch: Batch, prompts: EncodedText, choices: PromptChoices) -> ShownPart:
    """Group by group, prompt by prompt, all images of the group."""
    assert batch.prompts is not None
    size, count, first_G = batch.group_pairs, len(batch.prompts.lengths), np.arange(batch.num_groups)[:, None]
    shape = (*choices.matched_GK.shape, size)
    image_GKg = np.broadcast_to((size * first_G + np.arange(size))[:, None], shape)
    prompt_GKg = np.broadcast_to((count * first_G + choices.matched_GK)[..., None], shape)
    return ShownPart(
        captions=prompts.captions,
        hidden_ND=prompts.hidden_ND,
        image_S=image_GKg.ravel(),
        caption_S=prompt_GKg.ravel(),
        read=cls_tokens(image_GKg.size),
    )


def prompt_matching(batch: Batch, logit_R2: Tensor, matched_GK: Index, *, smoothing: float) -> Tensor:
    """Whether matched prompts are true; logit_R2 (G * K * g, 2): in the order of `matched_prompts`."""
    logit_GKg2 = logit_R2.view(batch.num_groups, -1, batch.group_pairs, 2)
    prompt_GK = upload([matched_GK], logit_R2.device)[0].view(batch.num_groups, -1)
    label_GgK = prompt_labels(labels_of(batch), prompt_GK)
    return two_way_loss(logit_GKg2.transpose(1, 2), label_GgK, smoothing=smoothing)


def labels_of(batch: Batch) -> Tensor:
    """(G, g, A)."""
    return batch.fields["attributes"].unflatten(0, (-1, batch.group_pairs))

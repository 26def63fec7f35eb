"""What BAMG shows to its fusion in a step: pairs, hard negatives, masked captions.

Shapes: B pairs in groups of g, E features, P image tokens, L tokens of the longest caption, C = B or 2B captions (own,
masked), S sequences of the fusion, R wanted rows of a caption, M masked words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tbps.data.batch import Batch, Draws
from tbps.nn.device_copy import to_device
from tbps.nn.packing import upload
from tbps.objectives.hard_negatives import draw_negatives, hardest_negatives, negative_weights
from tbps.objectives.irra_masking import mask_words
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class WordTask:
    """The masked words of a batch, which are to be guessed. All tensors but `token_ids_BL` lie on the device."""

    token_ids_BL: Tensor
    """The masked captions, on the host."""
    place_BR: Tensor
    """Places of the masked words of each caption; where it has fewer than R, the first of them is repeated."""
    real_M: Tensor
    """Numbers of the places that are no repetition, in `place_BR` laid out as one row."""
    word_M: Tensor
    """Id of the word that stood at each of them."""
    count_B: Tensor
    """How many words of each caption are masked, as a float."""


@dataclass(kw_only=True)
class Encoded:
    """What both towers make of a batch."""

    image_BPE: Tensor
    text_CLE: Tensor
    """Projected tokens of the own captions and, behind them, where words are guessed, of the masked ones; padded."""
    bias_C11L: Tensor | None
    """Added to attention logits, so that padding is not looked at; None where there is no padding."""
    end_C: Tensor
    """Place of the end token of each caption."""


@dataclass(kw_only=True)
class Negatives:
    """Hard negatives: for each pair of a batch, the number of another pair, on the device."""

    image_B: Tensor
    caption_B: Tensor | None
    """None where images are shown no negative caption."""
    has_B: Tensor
    """Whether the pair's group holds another identity."""


@dataclass(kw_only=True)
class Shown:
    """Pairs that one call of the fusion reads: numbers of images and captions, and the wanted tokens of each caption."""

    image_S: Tensor
    caption_S: Tensor
    row_SR: Tensor
    num_matched: int
    """How many of the pairs, the first ones, the matching head reads; the others are for masked words."""

    @staticmethod
    def own(encoded: Encoded, num_pairs: int) -> Shown:
        """Pair each image with its own caption."""
        own_B = torch.arange(num_pairs, device=encoded.end_C.device)
        return Shown(image_S=own_B, caption_S=own_B, row_SR=encoded.end_C[:num_pairs, None], num_matched=num_pairs)


def choose_words(
    captions: Captions, number_B2L: Tensor, *, mask_id: int, probability: float, device: torch.device
) -> WordTask:
    """Mask words of captions as IRRA does (tbps/objectives/irra_masking.py); number_B2L: uniform numbers, on the host."""
    ids_BL = captions.token_ids_BL
    masked = mask_words(ids_BL, number_B2L, mask_id=mask_id, probability=probability)
    chosen_BL = masked.chosen_BL.numpy()
    count_B = chosen_BL.sum(1)
    # Chosen places first, in their order; behind them the first one again.
    place_BR = np.argsort(~chosen_BL, axis=1, kind="stable")[:, : count_B.max()]
    real_BR = np.arange(place_BR.shape[1]) < count_B[:, None]
    place_BR = np.where(real_BR, place_BR, place_BR[:, :1])
    place, real, word, count = upload([place_BR, np.flatnonzero(real_BR), ids_BL.numpy()[chosen_BL], count_B], device)
    return WordTask(
        token_ids_BL=masked.token_ids_BL,
        place_BR=place.view(place_BR.shape),
        real_M=real,
        word_M=word,
        count_B=count.float(),
    )


@torch.no_grad()
def choose_negatives(
    batch: Batch,
    draws: Draws,
    image_BE: Tensor,
    caption_BE: Tensor,
    *,
    temperature: Tensor,
    how: Literal["hardest", "sampled"],
    captions: bool,
) -> Negatives:
    """Choose hard negatives in each group by the similarity of unit features; captions: choose one for each image too."""
    shape = (batch.num_groups, batch.group_pairs)
    logit_Ggg = image_BE.unflatten(0, shape) @ caption_BE.unflatten(0, shape).transpose(1, 2) / temperature
    i2t_Bg, t2i_Bg = logit_Ggg.flatten(0, 1), logit_Ggg.transpose(1, 2).flatten(0, 1)
    if how == "hardest":
        image_B, has_B = hardest_negatives(t2i_Bg, batch.identity_B)
        caption_B, _ = hardest_negatives(i2t_Bg, batch.identity_B)
    else:
        uniform_B2 = to_device(draws["negatives"], image_BE.device)
        weight_Bg, has_B = negative_weights(t2i_Bg, batch.identity_B)
        image_B = draw_negatives(weight_Bg, uniform_B2[:, 0])
        caption_B = draw_negatives(negative_weights(i2t_Bg, batch.identity_B)[0], uniform_B2[:, 1])
    return Negatives(image_B=image_B, caption_B=caption_B if captions else None, has_B=has_B)


def pair_up(encoded: Encoded, negatives: Negatives, words: WordTask | None) -> Shown:
    """What the fusion reads: the pairs, (negative image, caption), (image, negative caption), (image, masked caption)."""
    num_pairs = len(negatives.image_B)
    own_B = torch.arange(num_pairs, device=negatives.image_B.device)
    images, captions = [own_B, negatives.image_B], [own_B, own_B]
    if negatives.caption_B is not None:
        images.append(own_B)
        captions.append(negatives.caption_B)
    num_matched = num_pairs * len(images)
    row_SR = encoded.end_C.index_select(0, torch.cat(captions))[:, None]
    if words is not None:
        images.append(own_B)
        captions.append(num_pairs + own_B)
        row_SR = torch.cat([row_SR.expand(-1, words.place_BR.shape[1]), words.place_BR])
    return Shown(image_S=torch.cat(images), caption_S=torch.cat(captions), row_SR=row_SR, num_matched=num_matched)

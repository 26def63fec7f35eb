"""What APTM draws on the host: masks of captions, and what each group of pairs does with its prompts.

Shapes: B captions, G groups of g pairs, T prompts, A = T / 2 attributes, K prompts that are matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tbps.data.batch import Draws
from tbps.nn.packing import Index
from tbps.objectives.span_masking import MaskedSpans, mask_spans, seeds_of
from tbps.text.token_batch import Captions


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How words are masked; `tbps/config/methods/aptm.py` says what each setting means."""

    share: float
    most: int
    rule: Literal["words", "official"]
    official_tokens: int
    mask_id: int
    vocabulary_size: int

    def of_captions(self, captions: Captions, draws: Draws) -> MaskedSpans:
        """Masked captions; `draws.recorded` may hold "mlm_ids" and "mlm_labels" (B, L) in place of drawn ones."""
        if "mlm_ids" in draws.recorded:
            return recorded_spans(draws.recorded["mlm_ids"], draws.recorded["mlm_labels"])
        return self._mask(captions, seeds_of(draws["mlm"]), padded_to=self.official_tokens)

    def of_prompts(self, prompts: Captions, seeds: Sequence[int]) -> MaskedSpans:
        """The prompts once for each seed, masked by it: all of the first seed, then all of the next."""
        times = len(seeds)
        repeated = repeat_captions(prompts, times)
        each = [int(seed) for one in seeds for seed in np.random.SeedSequence(one).generate_state(len(prompts.lengths))]
        return self._mask(repeated, each, padded_to=max(prompts.lengths))

    def _mask(self, captions: Captions, seeds: Sequence[int], *, padded_to: int) -> MaskedSpans:
        return mask_spans(
            captions,
            seeds,
            share=self.share,
            most=self.most,
            mask_id=self.mask_id,
            vocabulary_size=self.vocabulary_size,
            has_end=True,
            padded_to=padded_to if self.rule == "official" else 0,
        )


@dataclass(kw_only=True)
class PromptChoices:
    """What the groups of a batch chose for their prompts."""

    matched_GK: Index
    """Prompts that are shown to all images of the group, for matching."""
    prompt_M: Index
    """The masked prompts that are true of some image, rows of the G * T prompts; one where there is none."""
    image_M: Index
    """The image that each of them sees: a row of the batch, of which the prompt is true."""
    masked: MaskedSpans
    """These prompts; no place of them is guessed where there is none."""


def choose_prompts(
    prompts: Captions, label_BA: Index, draws: Draws, masking: Masking, *, group_pairs: int, matched: int
) -> PromptChoices:
    """For each group: `matched` prompts, masks of all prompts, and for each prompt an image of which it is true, if any is.

    label_BA: as MALS has them. All follow from the number `draws["prompts"]` of the group's first pair; `draws.recorded` may
    hold "prompts_matched" (G, K), "prompt_images" (G, T; -1 = none), "prompt_ids" and "prompt_labels" (G * T, L).
    """
    seeds = seeds_of(draws["prompts"][::group_pairs])
    recorded, num_prompts = draws.recorded, len(prompts.lengths)
    matched_rows, image_rows = [], []
    for group, seed in enumerate(seeds):
        random = np.random.Generator(np.random.SFC64(seed))
        matched_rows.append(random.permutation(num_prompts)[:matched])
        label_gA = label_BA[group * group_pairs : (group + 1) * group_pairs]
        image_rows.append([_draw_image(label_gA, prompt, random) for prompt in range(num_prompts)])
    matched_GK, image_GT = np.stack(matched_rows), np.asarray(image_rows, np.int64)
    if "prompts_matched" in recorded:
        matched_GK, image_GT = recorded["prompts_matched"].numpy(), recorded["prompt_images"].numpy()
        masked = recorded_spans(recorded["prompt_ids"], recorded["prompt_labels"])
    else:
        masked = masking.of_prompts(prompts, seeds)
    group_M, place_M = (image_GT >= 0).nonzero()
    image_M = group_M * group_pairs + image_GT[group_M, place_M]
    prompt_M = group_M * num_prompts + place_M
    kept = _only_rows(masked, prompt_M)
    if not len(prompt_M):  # a prompt that nobody guesses, so that every parameter still has a gradient
        prompt_M = image_M = np.zeros(1, np.int64)
        kept.token_ids_BL = masked.token_ids_BL[:1]
    return PromptChoices(matched_GK=matched_GK, prompt_M=prompt_M, image_M=image_M, masked=kept)


def repeat_captions(captions: Captions, times: int) -> Captions:
    """All captions, several times over."""
    starts_BL = captions.starts_BL
    return Captions(
        token_ids_BL=captions.token_ids_BL.repeat(times, 1),
        lengths=captions.lengths * times,
        chunk_id_BL=captions.chunk_id_BL.repeat(times, 1),
        starts_BL=None if starts_BL is None else starts_BL.repeat(times, 1),
    )


def recorded_spans(ids_BL: Tensor, label_BL: Tensor) -> MaskedSpans:
    """Masks that other code made; label_BL: what stood at masked places, -100 elsewhere."""
    row_M, position_M = (label_BL != -100).numpy().nonzero()
    word_M = label_BL.numpy()[row_M, position_M]
    return MaskedSpans(token_ids_BL=ids_BL.numpy(), row_M=row_M, position_M=position_M, word_M=word_M)


def _draw_image(label_gA: Index, prompt: int, random: np.random.Generator) -> int:
    """An image of the group of which the prompt is true; -1 where it is of none."""
    able = np.flatnonzero(label_gA[:, prompt // 2] == prompt % 2)
    return int(random.choice(able)) if len(able) else -1


def _only_rows(masked: MaskedSpans, kept: Index) -> MaskedSpans:
    number = np.full(len(masked.token_ids_BL), -1)
    number[kept] = np.arange(len(kept))
    row_M = number[masked.row_M]
    stays = row_M >= 0
    return MaskedSpans(
        token_ids_BL=masked.token_ids_BL[kept],
        row_M=row_M[stays],
        position_M=masked.position_M[stays],
        word_M=masked.word_M[stays],
    )


def host_labels(labels_BA: Tensor) -> Index:
    """int64 on the host."""
    return labels_BA.to(torch.int64).numpy()

"""A batch as a run's data would give it, without the data: typical captions, random words, all that the method asks for.

Shapes: B pairs, L tokens of the longest caption.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor

from tbps.config.data import Benchmark
from tbps.config.needs import Needs, Text
from tbps.config.run import Run
from tbps.data.batch import HostBatch
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.data.label_sets import LABEL_SETS
from tbps.text.token_batch import Captions

WORDS: dict[Benchmark, tuple[float, float]] = {
    "cuhk-pedes": (23.5, 9.0),
    "icfg-pedes": (37.2, 12.0),
    "rstpreid": (26.5, 9.0),
    "mals": (27.0, 6.0),
    "coco": (10.5, 2.4),
}
"""Words of a caption by data set, mean and standard deviation. Means: Li et al. 2017 (CUHK-PEDES), Ding et al. 2021
(ICFG-PEDES), Zhu et al. 2021 (RSTPReid), Yang et al. 2023 (MALS), Chen et al. 2015 (COCO); deviations are ours."""
PIECES = 1.15
"""Tokens of a word, in BERT's word pieces and CLIP's byte pairs alike; ours, from captions of CUHK-PEDES."""
CHUNK_EVERY, CHUNK_TOKENS = 7, 2
"""A caption has an attribute chunk of two tokens at every seventh token."""
PROMPT_TOKENS = 9
VACUOUS_EVERY = 5


def typical_lengths(run: Run, pairs: int) -> list[int]:
    """Tokens of the captions of a batch: evenly spread over the distribution of the data set, in mixed order."""
    mean, deviation = WORDS[run.data.benchmark]
    captioning, text = run.data.captioning, run.needs.text
    frame = 2 if text.ends or text.tokeniser == "clip" else 1
    longest = min(captioning.training_tokens, text.max_tokens)
    lengths = []
    for row in range(pairs):
        words = max(3.0, NormalDist(mean, deviation).inv_cdf((row * 0.618033988749895 + 0.5 / pairs) % 1 or 0.5))
        if captioning.max_words:
            words = min(words, captioning.max_words)
        lengths.append(min(longest, round(words * PIECES) + frame))
    return lengths


def typical_batch(run: Run, pairs: int) -> HostBatch:
    """`pairs` pairs, whole groups of the run. ValueError: the method asks for a field that nobody else knows."""
    needs, data = run.needs, run.data
    generator = torch.Generator().manual_seed(0)
    own = _captions(typical_lengths(run, pairs), needs, generator)
    views = 2 if needs.second_view else 1
    pixels = torch.zeros(1, dtype=torch.uint8).expand(pairs, 3, *data.image_px)
    draws = [
        draw_pair(needs.draws, generator=generator_of(seed=0, epoch=1, key=str(row), use="method"), num_tokens=length)
        for row, length in enumerate(own.lengths)
    ]
    swapped_B = torch.rand(pairs, generator=generator) < (data.weak_positive_probability if needs.weak_positives else 0)
    other = _captions(typical_lengths(run, pairs), needs, generator)
    paired = own
    if bool(swapped_B.any()):
        paired = replace(own, token_ids_BL=torch.where(swapped_B[:, None], other.token_ids_BL, own.token_ids_BL))
    maps, fields = _fields(needs, pairs, data.image_px, generator)
    return HostBatch(
        pixels_BCHW=pixels,
        second_pixels_BCHW=pixels if views == 2 and data.changes_on_host else None,
        flip_BV=torch.zeros(pairs, views, dtype=torch.bool),
        shift_BV2=torch.zeros(pairs, views, 2, dtype=torch.int64) if "pad-crop" in data.augmentations else None,
        erase_BV4=torch.zeros(pairs, views, 4, dtype=torch.int64) if "erase" in data.augmentations else None,
        own=own,
        paired=paired,
        replaced_B=swapped_B.long(),
        identity_B=torch.arange(pairs),
        draws=stack_draws(needs.draws, draws, length=own.token_ids_BL.shape[1]),
        keys=tuple(map(str, range(pairs))),
        epoch=1.0,
        reworded=_captions(typical_lengths(run, pairs), needs, generator) if needs.rewording else None,
        prompts=_captions([PROMPT_TOKENS] * len(needs.prompts), needs, generator) if needs.prompts else None,
        maps=maps,
        fields=fields,
    )


def _captions(lengths: list[int], needs: Needs, generator: torch.Generator) -> Captions:
    text = needs.text
    padded = -(-max(lengths) // 8) * 8
    first, last = _word_ids(text)
    ids_BL = torch.zeros(len(lengths), padded, dtype=torch.int64)
    chunk_BL = torch.zeros_like(ids_BL)
    for row, length in enumerate(lengths):
        ids_BL[row, :length] = torch.randint(first, last, (length,), generator=generator)
        if text.start_id is not None:
            ids_BL[row, 0] = text.start_id
        if text.tokeniser == "clip":
            ids_BL[row, length - 1] = text.size - 1
        for number, place in enumerate(range(3, length - CHUNK_TOKENS, CHUNK_EVERY), start=1):
            chunk_BL[row, place : place + CHUNK_TOKENS] = number
    chunks = int(chunk_BL.max())
    vacuous_BL = None
    if needs.vacuous_words:
        vacuous_BL = (torch.arange(padded) % VACUOUS_EVERY == 1).repeat(len(lengths), 1)
    return Captions(
        token_ids_BL=ids_BL,
        lengths=tuple(lengths),
        chunk_id_BL=chunk_BL if needs.chunks else torch.zeros_like(ids_BL),
        chunk_weight_BC=torch.ones(len(lengths), chunks) if needs.chunk_weights else None,
        starts_BL=torch.ones(len(lengths), padded, dtype=torch.bool) if needs.word_starts else None,
        vacuous_BL=vacuous_BL,
    )


def _word_ids(text: Text) -> tuple[int, int]:
    """First id, and one past the last, of what stands for no special token, in every vocabulary that is used here."""
    if text.tokeniser == "clip":
        return 1, text.size - 3
    return min(1000, text.size // 2), text.size


def _fields(
    needs: Needs, pairs: int, image_px: tuple[int, int], generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Label maps, and other fields."""
    maps, fields = {}, {}
    for name in needs.fields:
        if name == "attributes":
            fields[name] = torch.randint(0, 2, (pairs, 27), generator=generator).to(torch.int8)
        elif name.removeprefix("parsing_") in LABEL_SETS:
            maps[name] = torch.zeros(pairs, *image_px, dtype=torch.uint8)
        else:
            raise ValueError(
                f"{name} is a field of the method's own, of which only data tell the shape: this run cannot be planned"
                " without them; train a few steps and give what they took as --pairs-per-s"
            )
    return maps, fields


SHARE = 0.15
"""What stands for a probability that the host reads, and how often something is chosen: MLM masks so many words."""


class Reading:
    """What the host reads from the device in a step of `pairs` pairs where nothing is computed.

    Whole numbers of each pair are rows of its group: hard negatives, drawn evenly, as an untrained method draws them.
    """

    def __init__(self, run: Run, pairs: int) -> None:
        self.group_pairs, self.pairs = run.data.group_pairs, pairs
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, shape: torch.Size, kind: torch.dtype) -> Tensor:
        """The numbers, on the host."""
        if kind.is_floating_point:
            return torch.full(shape, SHARE, dtype=kind)
        if kind == torch.bool:
            return torch.rand(shape, generator=self.generator) < SHARE
        if shape and shape[-1] == self.pairs:
            row_B = torch.arange(self.pairs)
            other = torch.randint(1, self.group_pairs, shape, generator=self.generator)
            drawn = row_B // self.group_pairs * self.group_pairs + (row_B + other) % self.group_pairs
            # The same copy says whether there is one: 0 is none.
            return torch.where((drawn == 0) & (self.group_pairs > 2), 1 + (row_B == 1).long(), drawn).to(kind)
        return torch.randint(0, 2, shape, generator=self.generator).to(kind)

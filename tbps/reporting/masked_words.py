"""Which words AGA masks how often, and captions beside their enriched ones, for the report.

Shapes: B pairs, L tokens of the longest caption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbps.config.data import Pixels
from tbps.data.batch import Batch, Draws
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.data.images import decode
from tbps.data.pairs import EvaluationSet
from tbps.methods.albef.aga import AgaMethod
from tbps.reporting.shown_pairs import ShownPairs, read_pairs, spread_queries, text_of
from tbps.reporting.thumbnail import thumbnail
from tbps.runs.atomic_file import write_json
from tbps.text.captions import CaptionEncoder
from tbps.text.tokeniser import Tokeniser

FILE = "masked_words"
"""Of the file, before the name of the evaluation that it belongs to."""
HEIGHT_PX = 192
NUM_CAPTIONS, NUM_EXAMPLES, NUM_ROWS = 512, 8, 15
BATCH = 32
FEWEST = 5
"""Occurrences below which the share of a word that is masked says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One word of a caption, whose pieces are masked one by one."""

    text: str
    enriched: str
    """What the enriched caption has in its place."""
    pieces: int
    masked_pieces: int
    vacuous: bool


def write_masked_words(
    run_folder: Path,
    name: str,
    method: AgaMethod,
    evaluation_set: EvaluationSet,
    encoder: CaptionEncoder,
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
) -> Path:
    """Write `report/masked_words-<name>.json` about captions spread over the split; a later report shows it.

    Words are chosen by the method's own training step, with draws that depend on the pair alone. encoder: one that marks
    vacuous words. ValueError names an image or a caption that cannot be read.
    """
    queries = spread_queries(evaluation_set, NUM_CAPTIONS)
    method.eval()
    captions: list[list[Word]] = []
    for first in range(0, len(queries), BATCH):
        shown = read_pairs(evaluation_set, encoder, queries[first : first + BATCH], image_px=image_px, pixels=pixels)
        captions += words_of_pairs(method, shown, encoder.tokeniser)
    changed = [place for place, words in enumerate(captions) if any(word.masked_pieces for word in words)]
    chosen = [changed[place] for place in np.linspace(0, len(changed) - 1, min(NUM_EXAMPLES, len(changed))).astype(int)]
    content = {
        "of": name,
        "masking": method.masking,
        "random_ratio": method.mlm_probability,
        "enriches": method.p_tem > 0,
        **count_words(captions),
        "examples": [_example(evaluation_set, queries[place], captions[place]) for place in chosen],
    }
    file = run_folder / "report" / f"{FILE}-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)
    return file


def words_of_pairs(method: AgaMethod, shown: ShownPairs, tokeniser: Tokeniser) -> Iterator[list[Word]]:
    """The words of each caption: what training would mask, and put in their place where it enriches captions."""
    batch, draws = training_step(method, shown)
    prepared = method.prepare_words(batch, draws)
    layout = prepared.paired.layout
    enriched_BL = np.zeros(batch.own.token_ids_BL.shape, dtype=np.int64)
    enriched_BL[layout.sequence_N, layout.position_N] = prepared.paired.token_id_N.cpu().numpy()
    masked_BL = np.zeros(enriched_BL.shape, dtype=bool)
    masked_BL[prepared.words.chosen] = True
    assert batch.own.vacuous_BL is not None, "the encoder marks vacuous words for AGA"
    for row, length in enumerate(batch.own.lengths):
        pieces = slice(1, length)  # without [CLS]
        yield join_pieces(
            [tokeniser.word_of(token) for token in batch.own.token_ids_BL[row, pieces].tolist()],
            [tokeniser.word_of(token) for token in enriched_BL[row, pieces].tolist()],
            masked=masked_BL[row, pieces].tolist(),
            vacuous=batch.own.vacuous_BL[row, pieces].tolist(),
        )


def join_pieces(
    pieces: Sequence[str], enriched: Sequence[str], *, masked: Sequence[bool], vacuous: Sequence[bool]
) -> list[Word]:
    """Words of the pieces of one caption, and of what stands in their places.

    Example: "a", "pur", "##ple" beside "a", "pur", "##se" gives the words "a" and "purple", enriched "a" and "purse".
    """
    starts = [place for place, piece in enumerate(pieces) if place == 0 or not piece.startswith("##")]
    return [
        Word(
            text=text_of(pieces[start:end]),
            enriched=text_of(enriched[start:end]),
            pieces=end - start,
            masked_pieces=sum(masked[start:end]),
            vacuous=vacuous[start],
        )
        for start, end in zip(starts, [*starts[1:], len(pieces)], strict=True)
    ]


def count_words(captions: Sequence[Sequence[Word]]) -> dict[str, Any]:
    """How often words occur and are masked, and the shares of word pieces as training logs them (0 to 1).

    masked_ratio: masked among all; vacuous_share: vacuous among masked; random_vacuous_share: vacuous among all, which is
    what masking at random would give. most, least: rows of words with at least FEWEST occurrences; no word is in both.
    """
    words = [word for caption in captions for word in caption]
    pieces, masked = sum(word.pieces for word in words), sum(word.masked_pieces for word in words)
    occurred = Counter(word.text for word in words)
    times = Counter(word.text for word in words if word.masked_pieces)
    vacuous = {word.text for word in words if word.vacuous}
    rows: list[dict[str, Any]] = [
        {"word": text, "occurred": number, "masked": times[text], "vacuous": text in vacuous, "share": times[text] / number}
        for text, number in sorted(occurred.items(), key=lambda item: (-item[1], item[0]))
        if number >= FEWEST
    ]
    most = sorted(rows, key=lambda row: -row["share"])[: min(NUM_ROWS, -(-len(rows) // 2))]
    return {
        "captions": len(captions),
        "different_words": len(occurred),
        "fewest": FEWEST,
        "masked_ratio": masked / max(pieces, 1),
        "vacuous_share": sum(word.masked_pieces for word in words if word.vacuous) / max(masked, 1),
        "random_vacuous_share": sum(word.pieces for word in words if word.vacuous) / max(pieces, 1),
        "most": most,
        "least": sorted((row for row in rows if row not in most), key=lambda row: row["share"])[:NUM_ROWS],
    }


def training_step(method: AgaMethod, shown: ShownPairs) -> tuple[Batch, Draws]:
    """A training step of these pairs, each with its own caption, of which every one is to be enriched."""
    image_BCHW = shown.images(method.device)
    pairs = len(shown.keys)
    batch = Batch(
        image_BCHW=image_BCHW,
        second_image_BCHW=image_BCHW,
        own=shown.captions,
        paired=shown.captions,
        replaced_B=torch.zeros(pairs, dtype=torch.int64, device=method.device),
        identity_B=torch.arange(pairs, device=method.device),
        group_pairs=pairs,
        epoch=1.0,
    )
    drawn = [
        draw_pair(method.draws, generator=generator_of(seed=0, epoch=0, key=key, use="masked words"), num_tokens=length)
        for key, length in zip(shown.keys, shown.captions.lengths, strict=True)
    ]
    draws = stack_draws(method.draws, drawn, length=shown.captions.token_ids_BL.shape[1])
    if "enriched" in draws.numbers:  # below any share of captions to be enriched
        draws.numbers["enriched"].zero_()
    return batch, draws


def _example(evaluation_set: EvaluationSet, query: int, words: Sequence[Word]) -> dict[str, Any]:
    image = int(evaluation_set.query_image_Q[query])
    pixels_HWC = decode(evaluation_set.gallery_bytes(image), key=evaluation_set.gallery_key(image))
    return {
        "key": evaluation_set.query_key(query),
        "picture": thumbnail(pixels_HWC, height_px=HEIGHT_PX),
        "original": [[word.text, word.masked_pieces > 0] for word in words],
        "enriched": [[word.enriched, word.enriched != word.text] for word in words],
    }

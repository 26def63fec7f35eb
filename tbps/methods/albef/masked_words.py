"""Which words AGA masks how often, and captions beside their enriched ones, for the report.

Shapes: B pairs, L tokens of the longest caption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbps.config.needs import Draw
from tbps.data.batch import Batch, Draws
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.exhibit import Card, Exhibit, Number, Part, Picture, Pictures, Table, Text, Words
from tbps.nn.packing import Index
from tbps.text.tokeniser import Tokeniser

NUM_CAPTIONS, NUM_EXAMPLES, NUM_ROWS = 512, 8, 15
BATCH = 32
FEWEST = 5
"""Occurrences below which the share of a word that is masked says nothing."""

ChosenWords = Callable[[ShownPairs], tuple[NDArray[np.bool_], Index]]
"""From pairs to (B, L) which tokens of their captions are masked, and (B, L) the token ids of the enriched captions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One word of a caption, whose pieces are masked one by one."""

    text: str
    enriched: str
    """What the enriched caption has in its place."""
    pieces: int
    masked_pieces: int
    vacuous: bool


def show_masked_words(
    shown: ShownSplit, choose: ChosenWords, *, masking: str, random_ratio: float, enriches: bool
) -> Exhibit:
    """Tables of the words of captions spread over the split, and some of these captions.

    choose: as the method's own training step does, with draws that depend on the pair alone; masking: by what it does, in a
    word; random_ratio: the share of words that masking at random would take; enriches: whether masked words are replaced.
    """
    queries = shown.spread(NUM_CAPTIONS)
    captions: list[list[Word]] = []
    for first in range(0, len(queries), BATCH):
        captions += words_of_pairs(choose, shown.read(queries[first : first + BATCH]), shown.encoder.tokeniser)
    changed = [place for place, words in enumerate(captions) if any(word.masked_pieces for word in words)]
    chosen = [changed[place] for place in np.linspace(0, len(changed) - 1, min(NUM_EXAMPLES, len(changed))).astype(int)]
    counts = count_words(captions)
    what = "then what the method puts in their place" if enriches else "this run enriches no captions"
    return Exhibit(
        title="Masked words",
        explanation=f"{len(captions)} captions spread over the split, masked once as in training ({masking}) by the tested"
        " weights.",
        parts=(
            Part(tables=(_shares(counts, random_ratio),)),
            Part(
                tables=(_words("most", counts), _words("least", counts)),
                note="A word counts as masked where one of its pieces is. The tables hold words that occurred at least"
                f" {FEWEST} times; there are {counts['different_words']} different words.",
            ),
            Part(
                title="Enriched captions" if enriches else "Masked captions",
                remark=f"words as the method reads them; masked ones marked{',' if enriches else ';'} {what}",
                cards=tuple(_example(shown, queries[place], captions[place], enriches=enriches) for place in chosen),
                note="" if chosen else "No word of these captions was masked.",
            ),
        ),
    )


def _shares(counts: dict[str, Any], random_ratio: float) -> Table:
    rows = (
        ("masked", counts["masked_ratio"], random_ratio),
        ("semantically vacuous among the masked", counts["vacuous_share"], counts["random_vacuous_share"]),
    )
    return Table(
        columns=("of all word pieces", "here", "at random"),
        rows=tuple(
            (Text(text=name), Number(value=here, percent=True), Number(value=random, percent=True))
            for name, here, random in rows
        ),
    )


def _words(which: str, counts: dict[str, Any]) -> Table:
    return Table(
        columns=(f"{which} often masked", "occurred", "masked", "share"),
        rows=tuple(
            (
                Text(text=row["word"], remark="vacuous" if row["vacuous"] else ""),
                Number(value=row["occurred"]),
                Number(value=row["masked"]),
                Number(value=row["share"], percent=True),
            )
            for row in counts[which]
        ),
    )


def _example(shown: ShownSplit, query: int, words: Sequence[Word], *, enriches: bool) -> Card:
    described = f"the image of {shown.evaluation_set.query_key(query)}"
    picture = Picture(pixels_HWC=shown.picture(query), described=described)
    original = Words(title="original", words=tuple((word.text, word.masked_pieces > 0) for word in words))
    enriched = Words(title="enriched", words=tuple((word.enriched, word.enriched != word.text) for word in words))
    return Card(cells=(Pictures(pictures=(picture,)), original, *([enriched] if enriches else [])))


def words_of_pairs(choose: ChosenWords, shown: ShownPairs, tokeniser: Tokeniser) -> Iterator[list[Word]]:
    """The words of each caption: what training would mask, and put in their place where it enriches captions."""
    masked_BL, enriched_BL = choose(shown)
    captions = shown.captions
    assert captions.vacuous_BL is not None, "the encoder marks vacuous words for AGA"
    for row, length in enumerate(captions.lengths):
        pieces = slice(1, length - (tokeniser.end_id is not None))
        yield join_pieces(
            tokeniser,
            captions.token_ids_BL[row, pieces].tolist(),
            enriched_BL[row, pieces].tolist(),
            masked=masked_BL[row, pieces].tolist(),
            vacuous=captions.vacuous_BL[row, pieces].tolist(),
        )


def join_pieces(
    tokeniser: Tokeniser,
    token_ids: Sequence[int],
    enriched_ids: Sequence[int],
    *,
    masked: Sequence[bool],
    vacuous: Sequence[bool],
) -> list[Word]:
    """Words of the pieces of one caption, and of what stands in their places.

    Example: "a", "pur", "##ple" beside "a", "pur", "##se" gives the words "a" and "purple", enriched "a" and "purse".
    """
    starts = [place for place, begins in enumerate(tokeniser.starts_words(token_ids)) if begins]
    return [
        Word(
            text=tokeniser.decode(token_ids[start:end]),
            enriched=tokeniser.decode(enriched_ids[start:end]),
            pieces=end - start,
            masked_pieces=sum(masked[start:end]),
            vacuous=vacuous[start],
        )
        for start, end in zip(starts, [*starts[1:], len(token_ids)], strict=True)
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


def training_step(shown: ShownPairs, wanted: Sequence[Draw], *, device: torch.device) -> tuple[Batch, Draws]:
    """A training step of these pairs, each with its own caption, of which every one is to be enriched."""
    image_BCHW = shown.images(device)
    pairs = len(shown.keys)
    batch = Batch(
        image_BCHW=image_BCHW,
        second_image_BCHW=image_BCHW,
        own=shown.captions,
        paired=shown.captions,
        replaced_B=torch.zeros(pairs, dtype=torch.int64, device=device),
        identity_B=torch.arange(pairs, device=device),
        group_pairs=pairs,
        epoch=1.0,
    )
    drawn = [
        draw_pair(wanted, generator=generator_of(seed=0, epoch=0, key=key, use="masked words"), num_tokens=length)
        for key, length in zip(shown.keys, shown.captions.lengths, strict=True)
    ]
    draws = stack_draws(wanted, drawn, length=shown.captions.token_ids_BL.shape[1])
    if "enriched" in draws.numbers:  # below any share of captions to be enriched
        draws.numbers["enriched"].zero_()
    return batch, draws

"""Random numbers of a step, keyed by (seed, epoch, pair): independent of workers, ranks and batch size.

One generator per pair and epoch; its numbers are drawn in one call and cut in the order in which the method asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tbps.config.needs import Draw
from tbps.data.batch import Draws
from tbps.text.token_batch import pad_rows

PADDING = 1.0
"""Number of a place beyond the end of a caption: no share of words is below it, so it chooses nothing."""


def generator_of(*, seed: int, epoch: int, key: str, use: str) -> torch.Generator:
    """A generator that depends on nothing but its arguments; `use` separates independent streams."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{key}\0{use}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_pair(draws: Sequence[Draw], *, generator: torch.Generator, num_tokens: int) -> dict[str, Tensor]:
    """All numbers of one pair in one call, by name: (numbers,), or (numbers, tokens of its own caption), float64."""
    sizes = [draw.numbers * (num_tokens if draw.per == "token" else 1) for draw in draws]
    parts = torch.rand(sum(sizes), generator=generator, dtype=torch.float64).split(sizes)
    return {
        draw.name: part.view(draw.numbers, num_tokens) if draw.per == "token" else part for draw, part in zip(draws, parts)
    }


def stack_draws(draws: Sequence[Draw], pairs: Sequence[Mapping[str, Tensor]], *, length: int) -> Draws:
    """The numbers of B pairs: (B, numbers), or (B, numbers, length) with `PADDING` beyond the end of a caption."""
    return Draws(
        numbers={
            draw.name: pad_rows([pair[draw.name] for pair in pairs], length=length, value=PADDING)
            if draw.per == "token"
            else torch.stack([pair[draw.name] for pair in pairs])
            for draw in draws
        }
    )

"""Random choices of a step, keyed by (seed, epoch, pair): independent of workers, ranks and batch size.

One generator per pair and epoch; its numbers are drawn in one call and cut into the fields of `Draws`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps.data.batch import Draws, TokenMask
from tbps.text.token_batch import pad_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawSpec:
    """What a method draws for each pair."""

    mlm_probability: float
    mrtd_probability: float
    vocabulary_size: int
    num_patches: int
    token_numbers: int = 0
    """Further numbers for each token of the own caption."""
    pair_numbers: int = 0
    """Further numbers for each pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairDraws:
    """Random numbers in [0, 1) of one pair: T tokens of its own caption, N patches, U further ones."""

    negative_2: Tensor
    mlm_4T: Tensor
    mrtd_4T: Tensor
    word_T: Tensor
    mae_N: Tensor
    token_UT: Tensor
    pair_U: Tensor


def generator_of(*, seed: int, epoch: int, key: str, use: str) -> torch.Generator:
    """A generator that depends on nothing but its arguments; `use` separates independent streams."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{key}\0{use}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_pair(spec: DrawSpec, *, generator: torch.Generator, num_tokens: int) -> PairDraws:
    """All numbers of one pair in one call."""
    further = [spec.token_numbers * num_tokens, spec.pair_numbers]
    sizes = [2, 4 * num_tokens, 4 * num_tokens, num_tokens, spec.num_patches, *further]
    numbers = torch.rand(sum(sizes), generator=generator, dtype=torch.float64)
    negative, mlm, mrtd, word, mae, token, pair = numbers.split(sizes)
    return PairDraws(
        negative_2=negative,
        mlm_4T=mlm.view(4, -1),
        mrtd_4T=mrtd.view(4, -1),
        word_T=word,
        mae_N=mae.float(),
        token_UT=token.view(spec.token_numbers, num_tokens),
        pair_U=pair,
    )


def stack_draws(spec: DrawSpec, pairs: Sequence[PairDraws], *, length: int) -> Draws:
    """Put the numbers of B pairs into fields of (B, length), padding with values that choose nothing."""
    return Draws(
        negative_B2=torch.stack([pair.negative_2 for pair in pairs]),
        mlm=_token_mask([pair.mlm_4T for pair in pairs], spec.mlm_probability, spec.vocabulary_size, length),
        mrtd=_token_mask([pair.mrtd_4T for pair in pairs], spec.mrtd_probability, spec.vocabulary_size, length),
        word_BL=pad_rows([pair.word_T for pair in pairs], length=length),
        mae_noise_BN=torch.stack([pair.mae_N for pair in pairs]),
        token_BUL=pad_rows([pair.token_UT for pair in pairs], length=length, value=1.0) if spec.token_numbers else None,
        pair_BU=torch.stack([pair.pair_U for pair in pairs]) if spec.pair_numbers else None,
    )


def _token_mask(fields: Sequence[Tensor], probability: float, vocabulary_size: int, length: int) -> TokenMask:
    select, mask, random, word = pad_rows(fields, length=length, value=1.0).unbind(1)
    return TokenMask(
        select_BL=select < probability,
        mask_BL=mask < 0.8,
        random_BL=random < 0.5,
        word_BL=(word * vocabulary_size).long().clamp_(max=vocabulary_size - 1),
    )

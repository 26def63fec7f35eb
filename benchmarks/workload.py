"""What the speed benchmarks compute on: a method of real size with random weights, a batch and its draws."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.methods.aga import Aga
from tbps.config.methods.laip import Laip
from tbps.config.methods.mars import Mars
from tbps.config.methods.rasa import Rasa
from tbps.data.batch import Batch, Draws
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

CLS_ID, SEP_ID, FIRST_WORD = 101, 102, 1000
# Large temporaries would otherwise be unmapped and faulted in again at every use, which hides the arithmetic.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

METHODS: dict[str, Any] = {"mars": Mars, "rasa": Rasa, "aga": Aga, "laip": Laip}
"""The methods that the benchmarks can build, by name."""


def fix_environment() -> None:
    """Start this command again with one thread and an allocator that keeps its memory, unless it has them."""
    if any(os.environ.get(key) != value for key, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)


def build(name: str, *, quick: bool, dropout: float = 0.1, px: tuple[int, int] | None = None) -> Any:
    """The method of real size, or with `quick` one of two narrow layers. ViT-B/16, 12-layer BERT, 384 x 384, queue 65536.

    px: height and width of the images, where not those of `image_px`.
    """
    torch.manual_seed(0)
    return build_method(configure(name, quick=quick, dropout=dropout), image_px=px or image_px(quick))


def configure(name: str, *, quick: bool, dropout: float = 0.1) -> Any:
    """Settings of the method that `build` makes."""
    config: Any = METHODS[name]()
    config = replace(config, bert=replace(config.bert, dropout=dropout))
    if quick:
        bert = Bert(
            width=32,
            layers=4,
            heads=2,
            intermediate=64,
            vocabulary_size=1200,
            max_positions=80,
            fusion_layer=2,
            full_cross_attention=config.bert.full_cross_attention,
            dropout=dropout,
        )
        narrow: dict[str, Any] = {"mae": MaeDecoder(depth=2, heads=2)} if isinstance(config, Mars) else {}
        narrow |= {"attention_layer": 1} if isinstance(config, Laip) else {}
        vit = Vit(width=32, depth=2, heads=2, patch_px=16)
        config = replace(config, vit=vit, bert=bert, queue_pairs=64, projection=16, **narrow)
    return config


def image_px(quick: bool) -> tuple[int, int]:
    """Height and width of the images."""
    return (64, 64) if quick else (384, 384)


def make_captions(lengths: Sequence[int], *, seed: int, vocabulary_size: int) -> Captions:
    """Random words between [CLS] and [SEP], with a two-token attribute chunk at every seventh word."""
    generator = torch.Generator().manual_seed(seed)
    longest = -(-max(lengths) // 8) * 8
    ids_BL = torch.zeros(len(lengths), longest, dtype=torch.int64)
    chunk_BL = torch.zeros_like(ids_BL)
    for row, length in enumerate(lengths):
        ids_BL[row, :length] = torch.randint(FIRST_WORD, vocabulary_size, (length,), generator=generator)
        ids_BL[row, 0], ids_BL[row, length - 1] = CLS_ID, SEP_ID
        for number, place in enumerate(range(3, length - 2, 7), start=1):
            chunk_BL[row, place : place + 2] = number
    return Captions(token_ids_BL=ids_BL, lengths=tuple(lengths), chunk_id_BL=chunk_BL)


def make_batch(
    name: str, lengths: Sequence[int], *, quick: bool, replay_words: bool = False, px: tuple[int, int] | None = None
) -> tuple[Batch, Draws]:
    """One group of pairs of different identities for a method, past the first epoch, and its draws; optionally m-RTD's
    words given.

    px: as in `build`.
    """
    size, generator = len(lengths), torch.Generator().manual_seed(1)
    config = configure(name, quick=quick)
    vocabulary_size, asked = config.bert.vocabulary_size, config.needs(px or image_px(quick)).draws
    own = make_captions(lengths, seed=2, vocabulary_size=vocabulary_size)
    image_BCHW = torch.randn(size, 3, *(px or image_px(quick)), generator=generator)
    batch = Batch(
        image_BCHW=image_BCHW,
        second_image_BCHW=image_BCHW.flip(3),
        own=own,
        paired=own,
        replaced_B=torch.zeros(size, dtype=torch.int64),
        identity_B=torch.arange(size),
        group_pairs=size,
        epoch=1.0,
    )
    pairs = [
        draw_pair(asked, generator=generator_of(seed=0, epoch=1, key=str(row), use="step"), num_tokens=length)
        for row, length in enumerate(lengths)
    ]
    draws = stack_draws(asked, pairs, length=own.token_ids_BL.shape[1])
    if replay_words:
        draws.recorded["words"] = torch.randint(FIRST_WORD, vocabulary_size, own.token_ids_BL.shape, generator=generator)
    return batch, draws

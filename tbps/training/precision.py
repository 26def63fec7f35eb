"""How float32 numbers are multiplied, and what oneDNN keeps. On a GPU in full; on the CPU by a library that is measured
once per run, then kept, because it changes bits.

`torch.set_float32_matmul_precision("medium")` hands them to oneDNN. Without AMX it still computes in full float32, on some
processors twice as fast as the default; with AMX it rounds to bfloat16. So one product is compared with float64.
"""

from __future__ import annotations

import logging
import os
import statistics
import time

import torch

logger = logging.getLogger(__name__)

LARGEST_ERROR = 1e-6
"""Largest error, relative to the largest value of the product, that counts as full float32 (default: 3e-7 to 7e-7)."""
_ROUNDS = 31
_LEAST_GAIN = 1.3
"""A clear gain, so that the choice is the same at every first start on one machine: where it pays, it pays about 2."""


PRODUCTS = "TBPS_CPU_PRODUCTS"
"""Environment variable: `default` takes torch's own library without measuring."""


def keep_float32() -> None:
    """Let a GPU compute float32 numbers as float32.

    torch does so with products, but it rounds what goes into convolutions, such as those that embed patches, to TF32's ten
    bits: that moved gradients by a thousandth (H200). Speed is what `loop.precision bf16` is for.
    """
    torch.backends.cudnn.allow_tf32 = False


def keep_few_kernels() -> None:
    """Let oneDNN keep the code of 64 shapes, unless the environment says how many; of a process, before it first computes.

    On a CPU, GELU and products go through it, and packed captions have other shapes in every step: it writes code for each,
    keeps that of 1024, and this lies between the large tensors, whose memory then cannot be used again as a whole. A run of
    `tiny` grew from 0.84 GiB to 1.33 GiB in 600 steps; it now stays at 0.91 GiB after 50 (benchmarks/cpu.md).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def choose_gemm(stored: str | None) -> str:
    """Set and return "medium" (oneDNN) or "highest" (default). `stored`: what the run used before; kept if exact here.

    A new run measures, and where oneDNN's gain is about what counts as clear, the next one may choose otherwise and have
    other last bits; the environment variable TBPS_CPU_PRODUCTS=default makes all runs take the default. ValueError: it
    says something else.
    """
    asked = os.environ.get(PRODUCTS, "")
    if asked not in ("", "default"):
        raise ValueError(f"{PRODUCTS} is {asked!r}, expected 'default', or leave it unset to have the processor measured")
    if stored == "highest" or (stored is None and asked):
        return _set("highest")
    a, b = _operands()
    exact = (a.double() @ b.double()).float()
    torch.set_float32_matmul_precision("medium")
    error = float((a @ b - exact).abs().max() / exact.abs().max())
    if stored == "medium":
        if error < LARGEST_ERROR:
            return _set("medium")
        logger.warning(
            "this run multiplied matrices with oneDNN so far, which is not exact here (error %.1e): bits will differ", error
        )
        return _set("highest")
    gain = _gain(a, b)
    chosen = "medium" if error < LARGEST_ERROR and gain > _LEAST_GAIN else "highest"
    logger.info(
        "float32 products on the CPU: oneDNN is %.2f times as fast, with error %.1e: %s it",
        gain,
        error,
        "using" if chosen == "medium" else "not using",
    )
    return _set(chosen)


def _set(precision: str) -> str:
    torch.set_float32_matmul_precision(precision)
    return precision


def _operands() -> tuple[torch.Tensor, torch.Tensor]:
    """The shape of a ViT-B's output projection on one image of 384 x 384."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(577, 768, generator=generator), torch.randn(768, 768, generator=generator)


def _gain(a: torch.Tensor, b: torch.Tensor) -> float:
    """How many times as fast oneDNN is: median, over pairs of products, of the ratio of their processor times.

    Not the ratio of the least times: with two threads on a busy machine one lucky product made it anything from 0.5 to 2.4
    where the median stayed between 1.04 and 1.13.
    """
    ratios = []
    for round_ in range(_ROUNDS):
        taken = {}
        for precision in ("highest", "medium") if round_ % 2 else ("medium", "highest"):  # neither is always the first
            torch.set_float32_matmul_precision(precision)
            start = time.process_time()  # the processor's time: a busy neighbour must not decide
            _ = a @ b
            taken[precision] = time.process_time() - start
        ratios.append(taken["highest"] / taken["medium"])
    return statistics.median(ratios)

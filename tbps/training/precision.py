"""How float32 numbers are multiplied, and what oneDNN keeps. On a GPU in full; on the CPU by the library that is faster on
this processor, kept for the whole run, because it changes bits.

`torch.set_float32_matmul_precision("medium")` hands them to oneDNN. Without AMX it still computes in full float32, on some
processors twice as fast as the default; with AMX it rounds to bfloat16. So one product is compared with float64.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

LARGEST_ERROR = 1e-6
"""Largest error, relative to the largest value of the product, that counts as full float32 (default: 3e-7 to 7e-7)."""
FASTER_ON = {("AuthenticAMD", "26")}
"""Processors (vendor, family) on which oneDNN was measured to be clearly faster: about 2 times on Zen 5 (1.05 on Zen 4).

A list, not a stopwatch: what a run measures on a busy machine differs from one run to the next, and so would their bits.
"""
_PROCESSORS = Path("/proc/cpuinfo")
PRODUCTS = "TBPS_CPU_PRODUCTS"
"""Environment variable: what a new run multiplies with, `default` (torch's own library) or `onednn`, on any processor."""


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

    A new run takes what the environment variable TBPS_CPU_PRODUCTS asks for, else what is faster on this processor, which is
    known by its name: all runs on one machine have the same bits. ValueError: the variable says something else.
    """
    asked = os.environ.get(PRODUCTS, "")
    if asked not in ("", "default", "onednn"):
        raise ValueError(
            f"{PRODUCTS} is {asked!r}, expected 'default' or 'onednn', or leave it unset to let the processor decide"
        )
    if stored is None:
        wanted = asked == "onednn" if asked else processor(_PROCESSORS) in FASTER_ON
    else:
        wanted = stored == "medium"
    if not wanted:
        return _set("highest")
    torch.set_float32_matmul_precision("medium")
    if (error := _error()) < LARGEST_ERROR:
        return _set("medium")
    logger.warning(
        "oneDNN is not exact on this processor (error %.1e): torch's default library multiplies%s",
        error,
        "" if stored is None else " from now on, and bits will differ",
    )
    return _set("highest")


def processor(listing: Path) -> tuple[str, str]:
    """Vendor and family of the first processor that Linux lists (`/proc/cpuinfo`); empty where it does not say."""
    said: dict[str, str] = {}
    if listing.is_file():
        for line in listing.read_text().splitlines():
            name, _, value = line.partition(":")
            said.setdefault(name.strip(), value.strip())
    return said.get("vendor_id", ""), said.get("cpu family", "")


def _set(precision: str) -> str:
    torch.set_float32_matmul_precision(precision)
    return precision


def _error() -> float:
    """Of one product, relative to its largest value: a ViT-B's output projection on one image of 384 x 384."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(577, 768, generator=generator), torch.randn(768, 768, generator=generator)
    exact = (a.double() @ b.double()).float()
    return float((a @ b - exact).abs().max() / exact.abs().max())

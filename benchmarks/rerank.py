"""Time of re-ranking per (caption, image) pair: ours, image by image, against the plain loop over captions.

    python benchmarks/rerank.py [--rounds 3] [--skewed] [--quick]

24 captions (log-normal lengths, mean 28 tokens), 16 images of 577 tokens, the best 12 images of every caption; skewed: the
best 6, some images among those of far more captions than others, as in real galleries. One thread, CPU time of the
process. The baseline's cost per pair is constant (captions padded to 75 tokens for MARS, 50 for RaSa), so it is timed on two
captions; ours on all. Medians of the rounds after a first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from plain import plain_rerank
from torch import Tensor
from workload import build, fix_environment, make_captions

from tbps.evaluation.rerank import rerank_scores
from tbps.text.token_batch import Captions

CAPTIONS, IMAGES, BEST, SKEWED_BEST, BASELINE_CAPTIONS = 24, 16, 12, 6, 2
MAX_TOKENS: dict[str, int] = {"mars": 75, "rasa": 50}
# title, GEMM library ("highest" = torch's default, "medium" = oneDNN), bf16
VARIANTS = (
    ("ours, fp32, same GEMM library", "highest", False),
    ("ours, fp32 by oneDNN", "medium", False),
    ("ours, bf16 autocast", "highest", True),
)


class Bench:
    """A method, its images' tokens on the host, captions and candidates."""

    def __init__(self, name: str, *, quick: bool, skewed: bool) -> None:
        self.max_tokens = MAX_TOKENS[name]
        self.method = build(name, quick=quick).eval()
        generator = torch.Generator().manual_seed(0)
        text, image = self.method.online.text_encoder, self.method.online.image_encoder
        self.tokens_IPD = torch.randn(IMAGES, 1 + image.num_patches, image.width, generator=generator)
        self.captions = _captions(text.vocabulary_size)
        self.best = SKEWED_BEST if skewed else BEST
        popularity = torch.empty(IMAGES).exponential_(generator=generator) if skewed else torch.ones(IMAGES)
        self.candidate_QK = torch.multinomial(popularity.expand(CAPTIONS, -1), self.best, generator=generator)
        with torch.no_grad():
            self.method.itm_head.weight.mul_(10)  # random heads score all pairs alike

    def baseline(self) -> Tensor:
        """Scores of the first captions, (BASELINE_CAPTIONS, best)."""
        rows = list(range(BASELINE_CAPTIONS))
        return plain_rerank(
            self.method, self.tokens_IPD, self.captions, self.candidate_QK, max_tokens=self.max_tokens, rows=rows
        )

    def ours(self) -> Tensor:
        """Scores of all captions, (CAPTIONS, best), text states included."""
        hidden = self.method.embed_captions(self.captions).hidden_ND
        caption_M = torch.arange(CAPTIONS).repeat_interleave(self.best)
        scores_M = rerank_scores(
            self.method.matcher(), self.tokens_IPD, self.captions, hidden, self.candidate_QK.flatten(), caption_M
        )
        return scores_M.view(CAPTIONS, self.best)


def _captions(vocabulary_size: int) -> Captions:
    lengths = np.random.default_rng(1).lognormal(np.log(26.5), 0.35, CAPTIONS).round().clip(8, 50).astype(int)
    return make_captions(lengths.tolist(), seed=3, vocabulary_size=vocabulary_size)


def seconds(work: Callable[[], Tensor], *, rounds: int) -> tuple[float, Tensor]:
    """Median CPU seconds without the first round, and the result."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return statistics.median(times[1:]), result


def measure(name: str, *, quick: bool, rounds: int, variants: str, skewed: bool) -> None:
    """Print one method's table."""
    bench = Bench(name, quick=quick, skewed=skewed)
    torch.set_float32_matmul_precision("highest")
    with torch.no_grad():
        value, expected = seconds(bench.baseline, rounds=rounds)
    baseline = 1000 * value / (BASELINE_CAPTIONS * bench.best)
    lengths = bench.captions.lengths
    print(f"\n{name}: captions of {min(lengths)} to {max(lengths)} tokens, mean {statistics.mean(lengths):.1f}; ", end="")
    print(f"scores with standard deviation {expected.std():.3f}")
    print(f"{'':32} {'ms per pair':>11} {'ratio':>6} {'max score difference':>21}")
    print(f"{'baseline, fp32':32} {baseline:11.2f} {1:6.2f}", flush=True)
    for title, gemm, bf16 in (VARIANTS[int(digit) - 1] for digit in variants):
        torch.set_float32_matmul_precision(gemm)
        mixed: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
        with torch.no_grad(), mixed:
            value, scores = seconds(bench.ours, rounds=rounds)
        milliseconds = 1000 * value / (CAPTIONS * bench.best)
        difference = (scores[:BASELINE_CAPTIONS] - expected).abs().max()
        print(f"{title:32} {milliseconds:11.2f} {baseline / milliseconds:6.2f} {difference:21.1e}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds after a first one (default 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that the command works")
    parser.add_argument("--variants", default="123", help="rows of ours to measure (default 123)")
    parser.add_argument("--skewed", action="store_true", help="some images are asked for by many captions")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}, expected 1 or more")
    fix_environment()
    torch.set_num_threads(1)
    for name in MAX_TOKENS:
        measure(
            name,
            quick=arguments.quick,
            rounds=arguments.rounds,
            variants=arguments.variants,
            skewed=arguments.skewed,
        )


if __name__ == "__main__":
    main()

"""BAMG's two fusions at real size: bottleneck tokens beside plain cross-attention, in training and in re-ranking.

    python benchmarks/fusion.py [--pairs 8] [--words 77] [--rounds 3]

Four layers, 512 wide, 8 heads, 193 image tokens, four fusion tokens, captions of `--words` tokens (the paper's longest: 77).
A step is forward and backward of `--pairs` pairs with all tokens wanted. A score is a pair of one image with `--pairs`
captions, of whose ends alone the last layer is computed, with what is begun once of image and captions left out; "begun" is
that. On a CPU: one thread, CPU time, resident memory. On a GPU: bfloat16 autocast, wall-clock time, memory allocated.
FLOPs are counted by torch.utils.flop_counter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from counting import count, measure_memory
from torch import Tensor

from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion
from tbps.nn.fusion_block import Rows

WIDTH, LAYERS, HEADS, TOKENS, IMAGE_TOKENS = 512, 4, 8, 4, 193
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
COLUMNS = ("fusion", "weights, M", "step, GFLOP", "step, ms", "step, peak MiB", "score, GFLOP", "score, ms", "begun, GFLOP")
Fusion = BottleneckFusion | CrossFusion


class Trial:
    """One kind of fusion on one image for each caption."""

    def __init__(self, fusion: Fusion, *, pairs: int, words: int, rounds: int) -> None:
        torch.manual_seed(0)
        self.fusion, self.pairs, self.rounds = fusion.to(DEVICE), pairs, rounds
        self.image_SPD = torch.randn(pairs, IMAGE_TOKENS, WIDTH, device=DEVICE, requires_grad=True)
        self.text_SLD = torch.randn(pairs, words, WIDTH, device=DEVICE, requires_grad=True)
        self.ends_S1 = torch.full((pairs, 1), words - 1, device=DEVICE)

    def begin(self) -> tuple[Tensor, Tensor]:
        """Of one image, and of all captions."""
        return self.fusion.begin_image(self.image_SPD[:1].detach()), self.fusion.begin_text(self.text_SLD.detach(), None)

    def score(self, begun: tuple[Tensor, Tensor]) -> Tensor:
        """All captions with the image."""
        image_SXD = begun[0].expand(self.pairs, -1, -1)
        return self._fuse(image_SXD, begun[1], image_rows=1, text_rows=self.ends_S1)

    def loss(self) -> Tensor:
        """Of a step."""
        begun = self.fusion.begin_image(self.image_SPD), self.fusion.begin_text(self.text_SLD, None)
        return self._fuse(*begun, image_rows=None, text_rows=None)

    def _fuse(self, image: Tensor, text: Tensor, *, image_rows: Rows, text_rows: Rows) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=ON_GPU):
            fused = self.fusion(image, text, None, image_rows=image_rows, text_rows=text_rows)
        return fused.image.float().square().mean() + fused.text.float().square().mean()

    def row(self, name: str) -> tuple[str, ...]:
        """Everything that is measured."""
        weights = sum(parameter.numel() for parameter in self.fusion.parameters()) / 1e6
        step = count(lambda: self.loss().backward()).gflop
        peak, step_ms = self._peak(), self._timed(lambda: self.loss().backward())
        with torch.no_grad():
            begun = self.begin()
            begun_gflop, score = count(self.begin).gflop, count(lambda: self.score(begun)).gflop
            score_ms = self._timed(lambda: self.score(begun))
        numbers = (weights, step, step_ms, peak, score, score_ms, begun_gflop)
        return (name, *(f"{number:.1f}" for number in numbers))

    def _peak(self) -> float:
        if not ON_GPU:
            return measure_memory(self.loss, self.fusion.parameters()).peak
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.loss().backward()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def _timed(self, run: Callable[[], Any]) -> float:
        """Milliseconds, the median over rounds."""
        run()
        taken = []
        for _ in range(self.rounds):
            began = _now()
            run()
            taken.append(1000 * (_now() - began))
        return statistics.median(taken)


def _now() -> float:
    if not ON_GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: list[str]) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--words", type=int, default=77, help="tokens of a caption")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = {"width": WIDTH, "layers": LAYERS, "heads": HEADS}
    kinds: dict[str, Fusion] = {
        "plain cross-transformer": CrossFusion(**sizes),
        "bottleneck": BottleneckFusion(**sizes, tokens=TOKENS),
    }
    device = torch.cuda.get_device_name() if ON_GPU else "one CPU thread"
    sys.stdout.write(f"{given.pairs} pairs, {given.words} words, {device}, torch {torch.__version__}\n\n")
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
    for name, fusion in kinds.items():
        trial = Trial(fusion, pairs=given.pairs, words=given.words, rounds=given.rounds)
        sys.stdout.write(f"| {' | '.join(trial.row(name))} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

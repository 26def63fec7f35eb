"""Steps on batches that the real loader brings from shards: how long they wait, and what a core of the loader brings.

Images are JPEG files of noise (benchmarks/loader.py) and captions one sentence: decoding and resizing are what costs.
"""

from __future__ import annotations

import csv
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loader import CAPTION, GROUP_PAIRS, cpu_seconds, drain, make_dataset, make_sources
from real_methods import run_of
from real_step import RealStep, now

from tbps.config.run import Run
from tbps.data.loader import MicroBatch, TrainingLoader, make_loader
from tbps.data.pairs import open_pairs
from tbps.data.shard_writer import write_shards
from tbps.text.captions import CaptionEncoder
from tbps.text.tokeniser import open_tokeniser
from tbps.training.data_wait import TimedBatches

SOURCE_PX = (384, 128)
WORKERS = 8
"""Loader workers at most: a GPU's share of the cores of a usual node."""


def pairs_per_core_s(image_px: tuple[int, int], *, images: int) -> float:
    """Pairs that one core decodes, resizes and stacks in a second of its time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "imgs").mkdir()
        make_sources(folder / "imgs", images, SOURCE_PX)
        dataset = make_dataset(folder, images, image_px)
        groups = [range(first, first + GROUP_PAIRS) for first in range(0, images, GROUP_PAIRS)]
        batches = [MicroBatch(pairs=tuple((0, pair) for pair in group), epoch=0.0) for group in groups]
        drain(dataset[batch] for batch in batches[:2])
        return images / cpu_seconds(lambda: drain(dataset[batch] for batch in batches))


def wait_share(name: str, method: Any, device: torch.device, *, pairs: int, quick: bool) -> dict[str, Any]:
    """Share of the time that steps of a dual encoder wait for their batches, of which loader workers make more meanwhile."""
    run = run_of(name, quick=quick, pairs=pairs, precision="bf16")
    warm, timed = (1, 2) if quick else (8, 40)
    workers = 1 if quick else max(1, min(WORKERS, len(os.sched_getaffinity(0)) - 1))
    with tempfile.TemporaryDirectory() as folder:
        shards = _shards(Path(folder), images=2 * GROUP_PAIRS if quick else 640)
        data = replace(run.data, benchmark="pairs", root=str(shards), workers=workers, cache=f"{folder}/cache")
        run = replace(run, data=data)
        steps = RealStep(run, method, device)
        batches = TimedBatches(iter(_loader(run, steps=warm + timed)))
        steps.batches = batches
        for _ in range(warm):
            steps.step()
        batches.take_waited_s()
        began = now(device)
        for _ in range(timed):
            steps.step()
        spent_s = now(device) - began
    return {
        "pairs": pairs,
        "workers": workers,
        "wait_share": batches.take_waited_s() / spent_s,
        "pairs_per_s": timed * pairs / spent_s,
    }


def _shards(folder: Path, *, images: int) -> Path:
    """Shards of pairs, two images an identity."""
    (folder / "made").mkdir()
    make_sources(folder / "made", images, SOURCE_PX)
    with (folder / "made/pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "caption", "identity"))
        table.writerows((f"{number}.jpg", CAPTION, number // 2) for number in range(images))
    write_shards(folder / "made", "pairs", folder / "shards")
    return folder / "shards"


def _loader(run: Run, *, steps: int) -> TrainingLoader:
    captioning = run.data.captioning
    encoder = CaptionEncoder(
        open_tokeniser(captioning, run.needs.text),
        max_words=captioning.max_words,
        max_tokens=captioning.training_tokens,
        cleaning=captioning.cleaning,
        chunker=None,
    )
    return make_loader(open_pairs(run.data), encoder, run.data, run.needs, seed=0, start_step=0, num_steps=steps)

"""MARS++ from nothing to a report, on a synthetic world: what `make demo` runs.

Every step is a command that a user could type; it is printed before it runs. A demo that was interrupted goes on when it is
started again. Sizes are ours: the smallest at which pretraining visibly helps within minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

IMAGE_PX = ("96", "48")
MALS_IMAGES = "3000"
IDENTITIES = "300"
PRETRAIN_EPOCHS = "6"
FINE_TUNE_EPOCHS = "7"
FINE_TUNE_VALIDATION_EPOCHS = "3.5"
# Contrast comes first, and the cross encoder is most of a step: pretraining is by contrast and MAE alone, fine-tuning
# without the losses about single words, at twice the epochs in the same time. `tiny` itself has all seven losses.
WORD_LOSSES = ("prd", "mlm", "mrtd")
MATCHING_LOSSES = ("pitm", "attribute")
RUNS = Path("runs")


def main() -> None:
    """Write the world, pretrain, fine-tune twice, evaluate, report, print the table."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="training processes")
    parser.add_argument("--data-only", action="store_true", help="write the synthetic data sets and stop")
    given = parser.parse_args()
    started = time.monotonic()
    write_data()
    if given.data_only:
        return
    without = left_out(*WORD_LOSSES, *MATCHING_LOSSES)
    by_similarity = ("--evaluation.rerank-k", "0")  # a matching head that is not trained ranks nothing
    train("recipes/pretrain_mals.py", given.processes, "--schedule.epochs", PRETRAIN_EPOCHS, *without, *by_similarity)
    pretrained = RUNS / "pretrain_mals" / "tiny"
    tbps("evaluate", str(pretrained), "--on", "cuhk-pedes", "--root", "demo/cuhk-pedes")
    epochs = ("--schedule.epochs", FINE_TUNE_EPOCHS, "--evaluation.every-epochs", FINE_TUNE_VALIDATION_EPOCHS)
    settings = (*epochs, *left_out(*WORD_LOSSES))
    train("recipes/mars.py", given.processes, "--name", "tiny-scratch", *settings)
    train("recipes/mars.py", given.processes, "--name", "tiny-pretrained", *settings, "--start.weights", str(pretrained))
    summary(pretrained, seconds=time.monotonic() - started)


def write_data() -> None:
    """MALS as shards, CUHK-PEDES as a folder, the vocabulary of both; COCO, which `tiny` of pretrain_coco reads."""
    size = ("--image-px", *IMAGE_PX, "--twin-rate", "0.1", "--wrong-detail-rate", "0.02", "--no-parsing")
    if not Path("demo/mals").is_dir():
        tbps("data", "synth", "demo/mals.new", "--benchmark", "mals", "--identities", MALS_IMAGES, "--seed", "1", *size)
        Path("demo/mals.new").rename("demo/mals")
        tbps("data", "synth", "demo/cuhk-pedes", "--benchmark", "cuhk-pedes", "--identities", IDENTITIES, *size)
    tbps("data", "doctor", "demo/cuhk-pedes", "--benchmark", "cuhk-pedes")
    if not Path("demo/coco").is_dir():
        tbps("data", "synth", "demo/coco.new", "--benchmark", "coco", "--identities", IDENTITIES, "--seed", "2", *size)
        Path("demo/coco.new").rename("demo/coco")
    if not Path("demo/mals-shards").is_dir():
        tbps("data", "shard", "demo/mals", "demo/mals-shards", "--benchmark", "mals", "--shard-mb", "2")
    tbps("data", "vocabulary", "demo/vocab.txt", "mals=demo/mals", "cuhk-pedes=demo/cuhk-pedes")


def left_out(*losses: str) -> list[str]:
    """Overrides that give losses no weight, which leaves out their passes too."""
    return [word for name in losses for word in (f"--method.weights.{name}", "0")]


def train(recipe: str, processes: int, *overrides: str) -> None:
    """A recipe's `tiny` on several processes of this machine."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    run([sys.executable, *launcher, recipe, "tiny", *overrides])


def tbps(*arguments: str) -> None:
    """A command of the console script."""
    run([str(Path(sys.executable).parent / "tbps"), *arguments])


def run(command: Sequence[str]) -> None:
    """Print and run a command; stop with its exit status where it fails."""
    sys.stdout.write(f"\n$ {shlex.join(command)}\n")
    sys.stdout.flush()
    status = subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode
    if status:
        raise SystemExit(f"demo: the command above failed with status {status}")


def summary(pretrained: Path, *, seconds: float) -> None:
    """The table and the reports."""
    from rich.console import Console

    from tbps.reporting.tables import results_table

    scratch, tuned = RUNS / "mars" / "tiny-scratch", RUNS / "mars" / "tiny-pretrained"
    rows = [
        ("zero-shot after pretraining", pretrained / "results" / "zero-shot-cuhk-pedes-test.json"),
        ("fine-tuned without pretraining", scratch / "results" / "final-cuhk-pedes-test.json"),
        ("fine-tuned with pretraining", tuned / "results" / "final-cuhk-pedes-test.json"),
    ]
    table = [(label, json.loads(file.read_text(encoding="utf-8"))) for label, file in rows]
    Console().print(results_table(table, title="MARS on the synthetic CUHK-PEDES, test split, text to image"))
    sys.stdout.write("(so short a run teaches the features, not yet the matching head that re-ranks the best few)\n")
    sys.stdout.write(f"report: {tuned / 'report' / 'report.html'}\n({seconds:.0f} s)\n")


if __name__ == "__main__":
    main()

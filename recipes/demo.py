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
MALS_IMAGES = "16000"
IDENTITIES = "300"
CONTRASTED, MATCHED = Path("runs/pretrain_mals/tiny-contrast"), Path("runs/pretrain_mals/tiny-matching")
PRETRAINED = Path("runs/pretrain_mals/tiny")
FROM_SCRATCH, FINE_TUNED = Path("runs/mars/tiny-scratch"), Path("runs/mars/tiny-pretrained")
# What the demo has otherwise than `tiny`, which is as small as tests need it. Two layers of text bind a colour to its
# garment, which one cannot: [CLS] reads words there that have not yet seen their neighbours. Processes fill the cores, so
# loader workers would only take turns with them. The queue has more to contrast with than a small group. The momentum
# encoder that fills it follows slowly, as in papers: `tiny`'s is for runs of a few steps.
SHAPE = (
    *("--method.bert.fusion-layer", "2"),
    *("--method.queue-pairs", "256", "--method.empty-queue", "ignored", "--method.momentum", "0.99"),
    *("--data.keep-sides", "True", "--data.workers", "0"),
)
# First contrast alone, a quarter of the price of a whole step: it teaches what is in an image. Then matching too, which
# tells near pairs apart. Its hard negatives are the nearest of a group; in a large one they are so near that a matching head
# that begins at random learns nothing from them: groups are small at first. Then they are larger, which teaches the
# similarity more. Fine-tuning alone judges chunks and rebuilds pixels. It is gentle with what is pretrained; from random
# weights so gentle a training would teach less.
CONTRAST = ("--schedule.epochs", "5", "--optim.lr", "3e-3", "--data.batch-pairs", "128", "--data.group-pairs", "64")
MATCHING = ("--schedule.epochs", "0.6", "--optim.lr", "2e-3", "--data.group-pairs", "4", "--method.weights.pitm", "4")
SHARPENING = ("--schedule.epochs", "1.6", "--optim.lr", "2e-3", "--data.group-pairs", "16", "--method.weights.pitm", "4")
FINE_TUNING = (
    *("--schedule.epochs", "4", "--evaluation.every-epochs", "2", "--optim.lr", "4e-4", "--data.group-pairs", "8"),
    *("--method.weights.pitm", "4"),
)
SCRATCH = ("--schedule.epochs", "7", "--evaluation.every-epochs", "3.5", "--optim.lr", "1e-3", "--data.group-pairs", "8")
# Within minutes the matching head learns less than the similarity: it decides between images that are about as similar.
RERANKING = ("--evaluation.rerank-k", "16", "--evaluation.score", "sum", "--evaluation.similarity-weight", "8")
BY_SIMILARITY = ("--evaluation.rerank-k", "0")  # a matching head that is not trained ranks nothing
WORD_LOSSES = ("prd", "mlm", "mrtd")  # they cost more time than they repay within minutes


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
    for folder, overrides in trainings().items():
        train(folder, given.processes, *overrides)
        if folder == PRETRAINED:
            tbps("evaluate", str(folder), "--on", "cuhk-pedes", "--root", "demo/cuhk-pedes")
    summary(seconds=time.monotonic() - started)


def trainings() -> dict[Path, tuple[str, ...]]:
    """What is trained, in order: run folders, each with what its recipe's `tiny` is given."""
    matching = (*SHAPE, *left_out(*WORD_LOSSES), *RERANKING)
    whole = left_out("attribute", "mae")  # no parts of captions and of images
    return {
        CONTRASTED: (*SHAPE, *CONTRAST, *left_out(*WORD_LOSSES, "pitm"), *whole, *BY_SIMILARITY),
        MATCHED: (*matching, *whole, *MATCHING, "--start.weights", str(CONTRASTED)),
        PRETRAINED: (*matching, *whole, *SHARPENING, "--start.weights", str(MATCHED)),
        FROM_SCRATCH: (*matching, *SCRATCH),
        FINE_TUNED: (*matching, *FINE_TUNING, "--start.weights", str(PRETRAINED)),
    }


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


def left_out(*losses: str) -> tuple[str, ...]:
    """Overrides that give losses no weight, which leaves out their passes too."""
    return tuple(word for name in losses for word in (f"--method.weights.{name}", "0"))


def train(folder: Path, processes: int, *overrides: str) -> None:
    """The `tiny` of the recipe that a run folder lies under, on several processes of this machine."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    recipe = f"recipes/{folder.parent.name}.py"
    run([sys.executable, *launcher, recipe, "tiny", "--name", folder.name, *overrides])


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


def summary(*, seconds: float) -> None:
    """The table and the reports."""
    from rich.console import Console

    from tbps.reporting.tables import results_table

    rows = [
        ("zero-shot after pretraining", PRETRAINED / "results" / "zero-shot-cuhk-pedes-test.json"),
        ("fine-tuned without pretraining", FROM_SCRATCH / "results" / "final-cuhk-pedes-test.json"),
        ("fine-tuned with pretraining", FINE_TUNED / "results" / "final-cuhk-pedes-test.json"),
    ]
    table = [(label, json.loads(file.read_text(encoding="utf-8"))) for label, file in rows]
    Console().print(results_table(table, title="MARS on the synthetic CUHK-PEDES, test split, text to image"))
    sys.stdout.write("(re-ranked: the best 16 by similarity and matching together; the matching head alone needs longer)\n")
    sys.stdout.write(f"report: {FINE_TUNED / 'report' / 'report.html'}\n({seconds:.0f} s)\n")


if __name__ == "__main__":
    main()

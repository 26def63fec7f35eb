"""A recipe that also writes which pairs each step computes: `python mixture_process.py FOLDER recipes/X.py VARIANT ...`.

FOLDER gets a file for each process, a line for each micro-batch that training took: its step, and the keys of its pairs.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from tbps.data.batch import HostBatch
from tbps.data.loader import TrainingLoader

_TAKE = TrainingLoader.__iter__
FOLDER = Path(sys.argv[1])


def noting(self: TrainingLoader) -> Iterator[HostBatch]:
    """As the loader, batch by batch as training takes them."""
    first = self._sampler.start_step
    for number, batch in enumerate(_TAKE(self)):
        line = {"step": first + number // self.micro_batches_per_step, "rank": self._sampler.rank, "keys": batch.keys}
        with (FOLDER / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        yield batch


if __name__ == "__main__":
    TrainingLoader.__iter__ = noting  # type: ignore[method-assign]
    sys.argv = sys.argv[2:]
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_path(sys.argv[0], run_name="__main__")

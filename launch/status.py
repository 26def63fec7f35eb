"""Where all runs are: `python -m launch.status [RUNS]`. Works with and without Slurm."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.run_state import RunState, state_of
from launch.slurm import NoSlurm, queue
from tbps.runs.run_folder import RunFolder

_COLUMNS = ("run", "job", "state", "step", "loss", "pairs/s", "last line", "restarts", "reason")


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="launch.status", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="folder of runs (default: runs)")
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(status(given.runs))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"launch.status: {error}\n")
        return 2
    return 0


def status(runs: Path) -> str:
    """A table with a line for each run folder, and what could not be asked."""
    files = [*runs.glob("*/*/config.json"), *runs.glob("*/*/job.json")]
    folders = sorted({file.parent for file in files})
    if not folders:
        raise ValueError(f"{runs} holds no runs; give the folder that holds <recipe>/<name>")
    try:
        queued, missing = queue(), ""
    except NoSlurm as error:
        queued, missing = None, f"jobs are not looked up: {error}\n"
    table = Table()
    for name in _COLUMNS:
        justify: Literal["left", "right"] = "right" if name in ("step", "loss", "pairs/s", "last line") else "left"
        table.add_column(name, justify=justify, overflow="fold")
    for path in folders:
        folder = RunFolder(path)
        state = state_of(folder, None, queued)
        table.add_row(*map(Text, (f"{path.parent.name}/{path.name}", *_cells(state))))
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get() + missing


def _cells(state: RunState) -> tuple[str, ...]:
    progress = state.progress
    return (
        state.record.job or "here" if state.record else "-",
        state.kind,
        f"{progress.step}/{progress.total or '?'}" if progress.step else "-",
        "-" if progress.loss is None else f"{progress.loss:.4f}",
        "-" if progress.pairs_per_s is None else f"{progress.pairs_per_s:.1f}",
        "-" if progress.age_s is None else age_in_words(progress.age_s),
        state.restarts,
        state.reason,
    )


def age_in_words(seconds: float) -> str:
    """One number is enough to see whether a run stands still: 40 s, 12 min, 5 h, 3 d."""
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    raise SystemExit(main())

"""One model scored on all three benchmarks: what `tbps evaluate RUN --on all` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tbps.config.data import Benchmark
from tbps.config.run import Run
from tbps.data.opening import splits_of
from tbps.data.remote import shown
from tbps.finished import open_finished
from tbps.reporting.tables import in_text, results_table
from tbps.scoring import Asked, score

BENCHMARKS: tuple[Benchmark, ...] = ("cuhk-pedes", "icfg-pedes", "rstpreid")
"""Those on which papers compare."""
FOLDER_OF_ALL = "data"
"""Where the data sets lie if nothing else is said."""


def evaluate_on_all(source: str | Path, roots: Sequence[str], asked: Asked) -> str:
    """Score a model on each benchmark, as `score` does on one; returns one table, where results lie, and what is absent.

    roots: `BENCHMARK=ROOT` of single ones, and at most one folder in which the others lie under their names; they stand for
    the benchmark and the root of `asked`.
    ValueError: none of them can be scored, which tells why of each.
    """
    run = open_finished(source).run
    rows: list[tuple[str, dict[str, Any]]] = []
    written, absent = [], []
    for benchmark, root, problem in places(run, roots):
        if problem := problem or _problem(run, benchmark, root, asked.split):
            absent.append(f"{benchmark} is left out: {problem}")
            continue
        scored = score(source, replace(asked, benchmark=benchmark, root=root))
        rows.append((f"{benchmark} {asked.split}, {scored.results['purpose']}", scored.results))
        written.append(f"{benchmark}: {scored.in_words()}")
    if not rows:
        raise ValueError(f"{source} cannot be scored on any benchmark: {'; '.join(absent)}")
    table = results_table(rows, title=f"{run.recipe}/{run.name}, text to image")
    return "\n".join([in_text(table), *written, *absent])


def places(run: Run, roots: Sequence[str]) -> Iterable[tuple[Benchmark, str, str]]:
    """Of each benchmark its name, its root, and why it has none. ValueError: words that name no place."""
    named, above = _named(roots)
    for benchmark in BENCHMARKS:
        if root := named.get(benchmark, run.data.root if benchmark == run.data.benchmark else ""):
            yield benchmark, root, ""
            continue
        here = sorted(entry.name for entry in above.iterdir() if entry.is_dir()) if above.is_dir() else []
        found = [name for name in here if name.lower() == benchmark]
        if len(found) == 1:
            yield benchmark, str(above / found[0]), ""
            continue
        what = f"{' and '.join(found)} in {above} may both be it" if found else f"{above} has no folder of that name"
        yield benchmark, "", f"{what}; name it with --root {benchmark}=ROOT"


def _named(roots: Sequence[str]) -> tuple[dict[str, str], Path]:
    """Roots by benchmark, and the folder of all others."""
    named: dict[str, str] = {}
    folders: list[str] = []
    for word in roots:
        benchmark, _, root = word.partition("=")
        if benchmark in BENCHMARKS and root:
            if benchmark in named:
                raise ValueError(f"--root names {benchmark} twice, expected it once; leave one out")
            named[benchmark] = root
        else:
            folders.append(word)
    if len(folders) > 1:
        raise ValueError(
            f"--root is {' and '.join(folders)}, expected one folder that holds all benchmarks, and"
            f" {'=ROOT, '.join(BENCHMARKS)}=ROOT for those that lie elsewhere"
        )
    above = Path(folders[0] if folders else FOLDER_OF_ALL).expanduser()
    if folders and not above.is_dir():
        raise ValueError(f"--root {folders[0]} is not a folder, expected one that holds {', '.join(BENCHMARKS)}")
    return named, above


def _problem(run: Run, benchmark: Benchmark, root: str, split: str) -> str:
    """Why that split cannot be read; empty where it can."""
    try:
        splits = splits_of(run.data.alone(benchmark, root), patience_s=run.loop.timeout_s)
    except ValueError as error:
        return str(error)
    return "" if split in splits else f"{shown(root)} has no {split} split (it has {', '.join(splits)})"

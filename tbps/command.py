"""The `tbps` console script: data, parse, convert, export, plan, index, search, serve, embed, evaluate, report, results.

Each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tbps.config.data import EVALUATED
from tbps.convert_command import add_arguments as add_convert
from tbps.data_command import add_arguments as add_data
from tbps.embed_command import add_arguments as add_embed
from tbps.export_command import add_arguments as add_export
from tbps.index_command import add_arguments as add_index
from tbps.parse_command import add_arguments as add_parse
from tbps.plan_command import add_arguments as add_plan
from tbps.search_command import add_arguments as add_search
from tbps.serve_command import add_arguments as add_serve
from tbps.training.process_end import end_process
from tbps.training.stop_signals import StoppedBySignal, StopSignals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. An error that a user can cause is one sentence on stderr and status 2.

    Without `arguments` those of the command line count, and the process ends with that status.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    status = _run(_parse(arguments))
    if arguments is None:
        end_process(status)
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What a command does not know is an override of a recipe, where it takes some."""
    parser = _parser()
    given, overrides = parser.parse_known_args(arguments)
    if overrides and not getattr(given, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    given.overrides = overrides
    return given


def _run(given: argparse.Namespace) -> int:
    try:
        with StopSignals() as signals, signals.at_once():  # so that whoever has workers or files begun can end them
            return int(given.run(given) or 0)
    except StoppedBySignal as stop:
        sys.stderr.write("tbps: stopped as asked\n")
        return int(stop.code or 0)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"tbps: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tbps", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data(commands.add_parser("data", help="make, check and pack data sets"))
    add_parse(commands.add_parser("parse", help="a human-parsing map of every image; goes on where it stopped"))
    add_convert(commands.add_parser("convert", help="official, BERT, ViT and CLIP weights to ours; export"))
    add_export(commands.add_parser("export", help="a run as a folder for others: weights, config, tokeniser, card, ONNX"))
    add_plan(
        commands.add_parser(
            "plan", help="memory, time and traffic of a run on GPUs that need not be here", allow_abbrev=False
        )
    )
    add_index(commands.add_parser("index", help="embed your own pictures, to be searched; brings an index up to date"))
    add_search(commands.add_parser("search", help="find pictures of an index by a sentence or a picture"))
    add_serve(commands.add_parser("serve", help="a page in the browser that searches an index"))
    add_embed(commands.add_parser("embed", help="vectors of pictures or sentences as .npy or .parquet"))
    _add_evaluate(commands.add_parser("evaluate", help="score a run on its own or another data set"))
    report = commands.add_parser("report", help="one HTML file about a run")
    report.add_argument("run_folder", type=Path, metavar="RUN", help="run folder: runs/<recipe>/<name>")
    report.add_argument(
        "--beside", type=Path, metavar="OTHER", help="another run: what both find for the same captions, side by side"
    )
    report.set_defaults(run=_report)
    _add_results(commands.add_parser("results", help="one table over runs: means over seeds, published figures beside"))
    doctor = commands.add_parser(
        "doctor", help="check this machine, Slurm and the folder of runs; start it as a run is started"
    )
    doctor.add_argument("run_folder", type=Path, nargs="?", metavar="RUN", help="a run whose speed and size matter")
    doctor.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    doctor.set_defaults(run=_examine)
    return parser


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run folder (runs/<recipe>/<name>), what tbps export wrote, or hf:NAMESPACE/NAME",
    )
    parser.add_argument("--on", choices=(*EVALUATED, "all"), help="another benchmark than the run's own; all: first three")
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        help="its folder or shards (default: the run's own); of all: the folder in which they lie under their names"
        " (default: data), and BENCHMARK=ROOT of others (repeat for more)",
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--rerank-k", type=int, help="images per caption that the matching head re-ranks (0 = none)")
    parser.add_argument("--tail", choices=("similarity", "index"), help="order of the images beyond the re-ranked")
    parser.add_argument(
        "--score", choices=("matching", "sum"), help="what orders the re-ranked: matching, or with similarity"
    )
    parser.add_argument("--score-processes", type=int, help="the score sum as APTM's code makes it on so many processes")
    parser.add_argument("--image-to-text-rerank", action="store_true", help="re-rank captions for each image too (ALBEF)")
    parser.set_defaults(run=_evaluate)


def _evaluate(given: argparse.Namespace) -> None:
    from tbps.all_benchmarks import evaluate_on_all
    from tbps.scoring import Asked, evaluate_model

    names = ("rerank_k", "tail", "score", "score_processes")
    rules = {name: value for name in names if (value := getattr(given, name)) is not None}
    if "score" in rules:  # another score than the run's is free of the number of processes unless it says so
        rules.setdefault("score_processes", 1)
    asked = Asked(split=given.split, rules=rules, rerank_image_to_text=given.image_to_text_rerank)
    if given.on == "all":
        text = evaluate_on_all(given.model, given.root, asked)
    elif len(given.root) > 1:
        raise ValueError(f"--root is {' and '.join(given.root)}, expected one folder; several are for --on all")
    else:
        text = evaluate_model(given.model, replace(asked, benchmark=given.on, root="".join(given.root)))
    sys.stdout.write(text + "\n")


def _report(given: argparse.Namespace) -> None:
    from tbps.run import report_run

    sys.stdout.write(f"{report_run(given.run_folder, beside=given.beside)}\n")


def _examine(given: argparse.Namespace) -> int:
    from tbps.machine_doctor import examine

    report, good = examine(given.runs, given.run_folder)
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"{report}\n")
    return 0 if good else 1


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument("--format", choices=("table", "markdown", "csv", "html"), default="table")
    parser.set_defaults(run=_results)


def _results(given: argparse.Namespace) -> None:
    from tbps.reporting.summary import read_summary
    from tbps.reporting.summary_formats import FORMATS

    sys.stdout.write(FORMATS[given.format](read_summary(given.runs)))


if __name__ == "__main__":
    main()

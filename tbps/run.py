"""A whole run from its config: data, method, training, evaluation, report. What the recipes and the console script call."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistStoreError

from tbps.config.data import EVALUATED, WITHOUT_CAPTIONS, Benchmark
from tbps.config.run import Run
from tbps.data.fields import check_prompts, choose_fields, try_fields
from tbps.data.identities import agree_on_identities
from tbps.data.loader import TrainingLoader, make_loader
from tbps.data.mixture import announce_mixture, first_pairs, open_training_pairs
from tbps.data.opening import (
    agree_on_chunker,
    announce_cut_captions,
    evaluation_encoder,
    splits_of,
    training_encoder,
)
from tbps.data.pairs import EvaluationSet, PairSource, open_pairs
from tbps.data.remote import shown
from tbps.data.shown_pairs import ShownSplit
from tbps.data.worker_processes import WorkerLost
from tbps.evaluation.evaluate import announce_ranking, evaluate
from tbps.evaluation.metrics import METRICS
from tbps.methods.method import Method
from tbps.methods.registry import build_method, fields_for, module_of
from tbps.nn.lora import frozen_to, merge_adapters
from tbps.reporting.exhibits import write_exhibits
from tbps.reporting.gallery import write_queries
from tbps.reporting.results import (
    Provenance,
    Purpose,
    device_name,
    final_file,
    final_metrics,
    make_results,
    write_results,
)
from tbps.reporting.tables import evaluation_table, in_text
from tbps.runs import checkpoint
from tbps.runs.config_hash import config_hash
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint
from tbps.text.tokeniser import Tokeniser, open_tokeniser
from tbps.training.device_errors import verdict_of
from tbps.training.devices import choose_device
from tbps.training.distributed import Team, announce_devices, as_launched, leave_processes, on_main, start_processes
from tbps.training.loop import train
from tbps.training.parts import Evaluate, Parts
from tbps.training.precision import keep_float32
from tbps.training.start import load_finished
from tbps.training.stop_signals import LOST_EXIT, StopSignals

logger = logging.getLogger(__name__)


def train_run(run: Run) -> int:
    """Train, validate, test and report; the exit status. What a user caused is one sentence and status 2.

    SystemExit (130 or 143) where a signal asked to stop, 75 where something was lost: the same command goes on.
    """
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    # New names in torch 2.14 and Accelerate 1.15 for calls that older supported versions only know by these.
    for call in ("broadcast_buffers", "torch.distributed.all_gather_into_tensor", "torch.distributed.reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", message=f"`{call}` is deprecated", category=FutureWarning)
    try:
        run = as_launched(run)
        # So that preparing the data can be shared out. It waits for the others outside of Python, where no handler runs:
        # until it is done, a signal does what it did before.
        start_processes(run.loop)
        with StopSignals() as signals, signals.at_once():  # but for training, which saves first
            announce_devices()
            run = _with_identities(_with_chunker(run))
            folder = train(run, make_parts(run))
            logger.info("report: %s", on_main(lambda: report_run(folder.path), doing="writing the report"))
            leave_processes()
    except WorkerLost as error:
        sys.stderr.write(f"{run.recipe}: {error}\n")
        return LOST_EXIT
    except DistStoreError as error:
        sys.stderr.write(f"{run.recipe}: {error}; the same command goes on from the last checkpoint\n")
        return LOST_EXIT
    except RuntimeError as error:
        if (verdict := verdict_of(error)) is None:
            raise
        sys.stderr.write(f"{run.recipe}: {verdict.sentence}\n")
        return verdict.status
    except (ValueError, OSError) as error:
        # The operating system's own words hold no advice.
        advice = "; once that is mended, the same command goes on" if isinstance(error, OSError) and error.errno else ""
        sys.stderr.write(f"{run.recipe}: {error}{advice}\n")
        return 2
    return 0


def make_parts(run: Run) -> Parts:
    """Open the data and say how everything else is made. Called on every process, once they have found each other."""
    tokeniser, patience_s, team = _tokeniser(run), run.loop.timeout_s, Team.current()
    offered = fields_for(run.method)
    fields = choose_fields(run.needs.fields, offered)
    opened: list[tuple[PairSource, tuple[str, ...]]] = []

    def open_data() -> None:
        source = open_training_pairs(run.data, patience_s=patience_s)
        try_fields(fields, source, first_pairs=first_pairs(source))
        check_prompts(run.needs, source, first_pairs=first_pairs(source))
        opened.append((source, splits_of(run.data, patience_s=patience_s)))

    team.together(open_data, doing="opening the data")
    source, splits = opened[0]
    on_main(lambda: announce_mixture(source, attributes="attributes" in fields), doing="naming the sources")
    encoder = training_encoder(
        source,
        run.data,
        tokeniser,
        chunks=run.needs.chunks,
        weigh_chunks=run.needs.chunk_weights,
        mark_vacuous=run.needs.vacuous_words,
        team=team,
        patience_s=patience_s,
    )
    if run.needs.captions:
        on_main(lambda: announce_cut_captions(source, encoder), doing="reading some captions")
    on_main(lambda: announce_ranking(run), doing="saying how images are ranked")

    def make_batches(*, start_step: int, num_steps: int, rank: int, world_size: int) -> TrainingLoader:
        return make_loader(
            source,
            encoder,
            run.data,
            run.needs,
            fields=offered,
            seed=run.loop.seed,
            start_step=start_step,
            num_steps=num_steps,
            rank=rank,
            world_size=world_size,
            patience_s=2 * run.loop.timeout_s,  # as for collectives; servers are given up first, by name
        )

    return Parts(
        build=lambda: _build(run),
        num_pairs=len(source),
        make_batches=make_batches,
        validate=_validation(run, tokeniser, splits),
        test=_test(run, tokeniser, splits),
    )


def _with_chunker(run: Run) -> Run:
    """The run with the name of who finds its attribute chunks, which its results depend on, agreed by all processes."""
    if not run.needs.chunks:
        return run
    return replace(run, data=replace(run.data, captioning=agree_on_chunker(run.data.captioning, Team.current())))


def _with_identities(run: Run) -> Run:
    """The run with the number of its training identities, where its method has a class for each of them."""
    if not run.needs.identities:
        return run
    return replace(run, data=agree_on_identities(run.data, Team.current(), patience_s=run.loop.timeout_s))


def _build(run: Run) -> Method:
    return build_method(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities)


def evaluate_run(
    path: Path,
    *,
    benchmark: Benchmark | None = None,
    root: str = "",
    split: str = "test",
    rules: Mapping[str, Any] | None = None,
    rerank_image_to_text: bool = False,
) -> str:
    """As `score_run`; returns a table and where the results lie."""
    results, file = score_run(
        path, benchmark=benchmark, root=root, split=split, rules=rules, rerank_image_to_text=rerank_image_to_text
    )
    return f"{in_text(evaluation_table(results))}\n{_where(file, results, RunFolder(path))}"


def score_run(
    path: Path,
    *,
    benchmark: Benchmark | None = None,
    root: str = "",
    split: str = "test",
    rules: Mapping[str, Any] | None = None,
    rerank_image_to_text: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Score a run's best checkpoint, on its own benchmark or another; writes results and gallery, returns results and file.

    rules: settings of evaluation that stand for the run's own.
    The final result is training's, or that of the first call after a training that tests nothing. Whatever is scored by
    other rules than the run's, before its end, or once more, is a trial under a name of its own.
    """
    folder = RunFolder(path)
    run = folder.read_run()
    if benchmark is not None and benchmark != run.data.benchmark and not root:
        raise ValueError(f"the run was trained on {run.data.benchmark}: name the folder of {benchmark} with --root")
    own = run
    run = replace(
        run,
        data=run.data.alone(benchmark or run.data.benchmark, root or run.data.root),
        evaluation=replace(run.evaluation, **(rules or {})),
    )
    announce_ranking(run)
    device = torch.device(choose_device().kind)
    keep_float32()
    weights = best_checkpoint(path)
    method = _build(run)
    load_finished(method, run, weights)
    as_the_run = run.evaluation == own.evaluation and not rerank_image_to_text
    purpose = _purpose(folder, own, run.data.benchmark, split) if as_the_run else "trial"
    return _score(
        run,
        method.to(device),
        _tokeniser(run),
        folder=folder,
        weights=weights,
        split=split,
        purpose=purpose,
        rerank_image_to_text=rerank_image_to_text,
    )


def merged_weights(path: Path) -> dict[str, torch.Tensor]:
    """State of a run's best checkpoint with its adapters merged into the weights they sit on, under the names without them.

    ValueError: the run has no adapters, or its base is not the one that they were trained on.
    """
    run = RunFolder(path).read_run()
    if not run.lora.on:
        raise ValueError(f"{path} has no adapters to merge; leave out --merge")
    method = _build(run)
    load_finished(method, run, best_checkpoint(path))
    frozen_to([method], torch.float32)  # a sum in bfloat16 would round adapters away
    merge_adapters(method)
    return method.state_dict()


def _purpose(folder: RunFolder, run: Run, benchmark: str, split: str) -> Purpose:
    """What a result by the run's own rules is."""
    newest = checkpoint.newest(folder.checkpoints)
    progress = checkpoint.read_progress(newest) if newest else {"step": 0, "total_steps": 1}
    if progress["step"] < progress["total_steps"]:
        return "trial"
    if benchmark not in run.data.trained_on:
        return "cross-set" if set(EVALUATED) & set(run.data.trained_on) else "zero-shot"
    if split == "val":
        return "validation"
    return "final" if split == "test" and not final_file(folder.path, benchmark).exists() else "trial"


def _where(file: Path, results: Mapping[str, Any], folder: RunFolder) -> str:
    final = final_file(folder.path, results["benchmark"])
    stays = f"; the final result stays as it is: {final}" if results["purpose"] == "trial" and final.exists() else ""
    return f"{results['purpose']}, written to {file}{stays}"


def report_run(path: Path, *, beside: Path | None = None) -> Path:
    """Write the HTML report of a run folder, with another run's first images beside its own; returns its path."""
    from tbps.reporting.report import write_report

    return write_report(path, beside=beside)


def _validation(run: Run, tokeniser: Tokeniser, splits: tuple[str, ...]) -> Evaluate | None:
    if "val" not in splits or run.data.benchmark in WITHOUT_CAPTIONS:
        if run.evaluation.selection == "val":
            raise ValueError(
                f"{run.data.benchmark} at {shown(run.data.root)} has no val split to choose the checkpoint on"
                f" (it has {', '.join(splits)}); set --evaluation.selection last"
            )
        return None
    evaluation_set = EvaluationSet(open_pairs(run.data, "val", patience_s=run.loop.timeout_s))
    encoder = evaluation_encoder(run.data.captioning, tokeniser)

    def validate(method: Method, step: int) -> dict[str, float]:
        return evaluate(
            method,
            evaluation_set,
            encoder,
            run.evaluation,
            image_px=run.data.image_px,
            pixels=run.data.evaluation_pixels,
            device=next(method.parameters()).device,
            rerank=run.evaluation.validation_rerank and run.needs.matcher,
            precision=run.loop.precision,
            workers=run.data.workers,
        ).values()

    return validate


def _test(run: Run, tokeniser: Tokeniser, splits: tuple[str, ...]) -> Evaluate | None:
    if not run.evaluation.test:
        return None
    if "test" not in splits:
        raise ValueError(
            f"{run.data.benchmark} at {shown(run.data.root)} has no test split (it has {', '.join(splits)});"
            " set --evaluation.test False"
        )
    folder = RunFolder.of(run)

    def test(method: Method, step: int) -> dict[str, float]:
        weights = checkpoint.folder_of(folder.checkpoints, step)
        results, _ = _score(run, method, tokeniser, folder=folder, weights=weights, split="test", purpose="final")
        final = final_metrics(results)
        return {name: float(final[name]) for name in METRICS}

    return test


def _score(
    run: Run,
    method: Method,
    tokeniser: Tokeniser,
    *,
    folder: RunFolder,
    weights: Path,
    split: str,
    purpose: Purpose,
    rerank_image_to_text: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Evaluate on every process; the first one writes results, gallery and exhibits. Returns results and their file."""
    device = next(method.parameters()).device
    evaluation_set = EvaluationSet(open_pairs(run.data, split, patience_s=run.loop.timeout_s))
    encoder = evaluation_encoder(run.data.captioning, tokeniser)
    evaluated = evaluate(
        method,
        evaluation_set,
        encoder,
        run.evaluation,
        image_px=run.data.image_px,
        pixels=run.data.evaluation_pixels,
        device=device,
        rerank=run.needs.matcher,
        rerank_image_to_text=rerank_image_to_text,
        precision=run.loop.precision,
        workers=run.data.workers,
    )

    def write() -> tuple[dict[str, Any], Path]:
        provenance = Provenance(
            benchmark=run.data.benchmark,
            split=split,
            purpose=purpose,
            recipe=run.recipe,
            run=run.name,
            config_hash=config_hash(folder.read_run()),
            weights=weights.name,
            weights_sha256=checkpoint.model_sha256(weights),
            step=int(checkpoint.read_progress(weights)["step"]),
            precision=run.loop.precision,
            device=device_name(device),
            chunker=run.data.captioning.chunker_name,
        )
        results = make_results(evaluated, provenance)
        file = write_results(folder.path, results)
        write_queries(folder.path, file.stem, evaluated, evaluation_set)
        marks = evaluation_encoder(
            run.data.captioning,
            tokeniser,
            chunks=run.needs.report_chunks,
            mark_vacuous=run.needs.report_vacuous_words,
        )
        shows = ShownSplit(
            evaluation_set=evaluation_set, encoder=marks, image_px=run.data.image_px, pixels=run.data.evaluation_pixels
        )
        write_exhibits(folder.path, file.stem, method.eval().exhibits(shows))
        return results, file

    return on_main(write, doing="writing results and exhibits")


def _tokeniser(run: Run) -> Tokeniser:
    return open_tokeniser(run.data.captioning, run.needs.text, module_of(run.method))

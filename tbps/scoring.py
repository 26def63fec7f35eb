"""A finished model scored on a data set: its results, and of a run what is written beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tbps.config.data import EVALUATED, Benchmark
from tbps.config.run import Run
from tbps.data.opening import evaluation_encoder
from tbps.data.pairs import EvaluationSet, open_pairs
from tbps.data.shown_pairs import ShownSplit
from tbps.evaluation.evaluate import announce_ranking, evaluate
from tbps.finished import Finished, open_finished, own_device
from tbps.methods.method import Method
from tbps.reporting.exhibits import write_exhibits
from tbps.reporting.gallery import write_queries
from tbps.reporting.results import Provenance, Purpose, device_name, final_file, make_results, write_results
from tbps.reporting.tables import evaluation_table, in_text
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.text.tokeniser import Tokeniser
from tbps.training.distributed import on_main
from tbps.training.precision import keep_few_kernels, keep_float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a model is scored on, and how."""

    benchmark: Benchmark | None = None
    """None: the one that it was trained on."""
    root: str = ""
    """Its folder or shards; empty: the run's own."""
    split: str = "test"
    rules: Mapping[str, Any] = field(default_factory=dict)
    """Settings of evaluation that stand for the run's own."""
    rerank_image_to_text: bool = False
    """Whether captions are re-ranked for each image too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Results of one data set."""

    results: dict[str, Any]
    file: Path | None
    """Where they lie; None: of an exported model, of which nothing is written."""

    def in_words(self) -> str:
        """What they are, and where they lie."""
        if self.file is None:
            return "of an exported model: nothing is written"
        final = final_file(self.file.parents[1], self.results["benchmark"])
        trial = self.results["purpose"] == "trial" and final.exists()
        stays = f"; the final result stays as it is: {final}" if trial else ""
        return f"{self.results['purpose']}, written to {self.file}{stays}"


def evaluate_model(source: str | Path, asked: Asked) -> str:
    """As `score`; returns a table and where the results lie."""
    scored = score(source, asked)
    return f"{in_text(evaluation_table(scored.results))}\n{scored.in_words()}"


def score(source: str | Path, asked: Asked) -> Scored:
    """Score a run's best checkpoint or an exported model (`open_finished`), on its own benchmark or another.

    Of a run, results and gallery are written. The final result is training's, or that of the first call after a training
    that tests nothing. Whatever is scored by other rules than the run's, before its end, or once more, is a trial under a
    name of its own. ValueError: no such model, or nothing says where the data lie.
    """
    finished = open_finished(source)
    run = _asked_run(finished, asked)
    announce_ranking(run)
    keep_float32()
    keep_few_kernels()
    device = own_device()
    method = finished.method().to(device)
    as_the_run = run.evaluation == finished.run.evaluation and not asked.rerank_image_to_text
    by_the_rules = as_the_run and finished.exported is None
    return score_method(
        run,
        method,
        finished.tokeniser(),
        finished=finished,
        split=asked.split,
        purpose=_purpose(finished, run.data.benchmark, asked.split) if by_the_rules else "trial",
        rerank_image_to_text=asked.rerank_image_to_text,
    )


def score_method(
    run: Run,
    method: Method,
    tokeniser: Tokeniser,
    *,
    finished: Finished,
    split: str,
    purpose: Purpose,
    rerank_image_to_text: bool = False,
) -> Scored:
    """Evaluate `method`, the weights of `finished`, by the rules of `run`, on every process.

    Of a run the first process writes results, gallery and exhibits.
    """
    device = next(method.parameters()).device
    evaluation_set = EvaluationSet(open_pairs(run.data, split, patience_s=run.loop.timeout_s))
    evaluated = evaluate(
        method,
        evaluation_set,
        evaluation_encoder(run.data.captioning, tokeniser),
        run.evaluation,
        image_px=run.data.image_px,
        pixels=run.data.evaluation_pixels,
        device=device,
        rerank=run.needs.matcher,
        rerank_image_to_text=rerank_image_to_text,
        precision=run.loop.precision,
        workers=run.data.workers,
    )

    def write() -> Scored:
        provenance = Provenance(
            benchmark=run.data.benchmark,
            split=split,
            purpose=purpose,
            recipe=run.recipe,
            run=run.name,
            config_hash=finished.config_hash,
            weights=finished.checkpoint,
            weights_sha256=finished.weights_sha256,
            step=finished.step,
            precision=run.loop.precision,
            device=device_name(device),
            chunker=run.data.captioning.chunker_name,
        )
        results = make_results(evaluated, provenance)
        if finished.exported is not None:
            return Scored(results=results, file=None)
        file = write_results(finished.folder, results)
        write_queries(finished.folder, file.stem, evaluated, evaluation_set)
        write_exhibits(finished.folder, file.stem, method.eval().exhibits(_shown(run, tokeniser, evaluation_set)))
        return Scored(results=results, file=file)

    return on_main(write, doing="writing results and exhibits")


def _shown(run: Run, tokeniser: Tokeniser, evaluation_set: EvaluationSet) -> ShownSplit:
    """What a method shows itself on in the report."""
    marks = evaluation_encoder(
        run.data.captioning, tokeniser, chunks=run.needs.report_chunks, mark_vacuous=run.needs.report_vacuous_words
    )
    return ShownSplit(
        evaluation_set=evaluation_set, encoder=marks, image_px=run.data.image_px, pixels=run.data.evaluation_pixels
    )


def _asked_run(finished: Finished, asked: Asked) -> Run:
    """The run with the data and the rules that were asked for."""
    own = finished.run
    benchmark = asked.benchmark or own.data.benchmark
    if not asked.root and finished.exported is not None:
        raise ValueError(f"an exported model names no data; say where {benchmark} lies: --root FOLDER")
    if not asked.root and benchmark != own.data.benchmark:
        raise ValueError(f"the run was trained on {own.data.benchmark}: name the folder of {benchmark} with --root")
    return replace(
        own,
        data=own.data.alone(benchmark, asked.root or own.data.root),
        evaluation=replace(own.evaluation, **asked.rules),
    )


def _purpose(finished: Finished, benchmark: str, split: str) -> Purpose:
    """What a result by the run's own rules is."""
    data = finished.run.data
    newest = checkpoint.newest(RunFolder(finished.folder).checkpoints)
    progress = checkpoint.read_progress(newest) if newest else {"step": 0, "total_steps": 1}
    if progress["step"] < progress["total_steps"]:
        return "trial"
    if benchmark not in data.trained_on:
        return "cross-set" if set(EVALUATED) & set(data.trained_on) else "zero-shot"
    if split == "val":
        return "validation"
    return "final" if split == "test" and not final_file(finished.folder, benchmark).exists() else "trial"

"""A whole run from its config: data, method, training, evaluation, report. What the recipes and the console script call."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

from torch.distributed import DistStoreError

from tbps.config.data import WITHOUT_CAPTIONS
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
from tbps.data.worker_processes import WorkerLost
from tbps.evaluation.evaluate import announce_ranking, evaluate
from tbps.evaluation.metric_names import METRICS
from tbps.finished import finished_at
from tbps.methods.method import Method
from tbps.methods.registry import build_method, fields_for, module_of
from tbps.planning.mfu import mfu_of
from tbps.reporting.results import final_metrics
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.scoring import score_method
from tbps.text.tokeniser import Tokeniser, open_tokeniser
from tbps.training.device_errors import verdict_of
from tbps.training.distributed import Team, announce_devices, leave_processes, on_main, start_processes
from tbps.training.launch_settings import as_launched
from tbps.training.loop import train
from tbps.training.parts import Evaluate, Parts
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
        mfu=mfu_of(run, rank=team.rank, processes=team.size),
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
        finished = on_main(lambda: finished_at(folder.path, folder.read_run(), weights), doing="reading the checkpoint")
        final = final_metrics(score_method(run, method, tokeniser, finished=finished, split="test", purpose="final").results)
        return {name: float(final[name]) for name in METRICS}

    return test


def _tokeniser(run: Run) -> Tokeniser:
    return open_tokeniser(run.data.captioning, run.needs.text, module_of(run.method))

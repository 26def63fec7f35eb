"""The training loop. One loop serves all methods; it may be killed at any moment and goes on by the same command."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from tbps.config.run import Run
from tbps.methods.method import Method
from tbps.runs import checkpoint
from tbps.runs.atomic_file import words_of, write_json
from tbps.runs.run_folder import OpenRunFolder, RunFolder
from tbps.runs.selection import best_step
from tbps.training.adapters import adapt, gradients_in_words
from tbps.training.compilation import Compiled, compile_method, without_graphs
from tbps.training.contrast import check_contrast
from tbps.training.data_wait import TimedBatches
from tbps.training.distributed import on_main, start_processes
from tbps.training.journal import Journal, check_finite, with_numbers
from tbps.training.memory import memory_of_all, peak_gib
from tbps.training.parts import Evaluate, Parts
from tbps.training.peers import Peers, Pulse
from tbps.training.precision import choose_gemm
from tbps.training.schedule import total_steps
from tbps.training.spread import spread
from tbps.training.start import start
from tbps.training.step import Stepper
from tbps.training.step_profile import StepProfile, steps_to_profile
from tbps.training.stop_signals import StoppedBySignal, StopSignals

logger = logging.getLogger(__name__)


def train(run: Run, parts: Parts) -> RunFolder:
    """Train, validate and test a run in `runs/<recipe>/<name>/`, from where that folder stands; return the folder.

    ValueError: the folder is in use or was started with another config, the processes do not fit the batch, a number is
    not finite. OSError: a checkpoint cannot be written. StoppedBySignal (exit status 130 or 143) after Ctrl-C, SIGTERM or
    SIGUSR2, with everything saved. Where another process was lost or hangs, this one ends with exit status 75.
    """
    accelerator = start_processes(run.loop)
    with StopSignals() as signals, Peers(timeout_s=run.loop.timeout_s, note=RunFolder.of(run).lost) as peers:
        with signals.at_once():  # nothing to save yet
            folder = _open_folder(run)
        try:
            with signals.at_once():
                training = _Training(run, parts, accelerator, folder, signals, peers.pulse)
            with closing(training.journal), closing(training.profile):
                training.steps()
                training.finish()
        finally:
            if isinstance(folder, OpenRunFolder):
                folder.close()
    return folder


def _open_folder(run: Run) -> RunFolder:
    """The first process locks the folder and may write; the others know the paths."""
    opened: list[OpenRunFolder] = []
    on_main(lambda: opened.append(OpenRunFolder(run)), doing="opening the run folder")
    return opened[0] if opened else RunFolder.of(run)


class _Training:
    """A run under way: what the loop calls, and when."""

    def __init__(
        self, run: Run, parts: Parts, accelerator: Accelerator, folder: RunFolder, signals: StopSignals, pulse: Pulse
    ) -> None:
        self.run, self.parts, self.accelerator, self.folder = run, parts, accelerator, folder
        self.signals, self.pulse = signals, pulse
        self.steps_per_epoch = parts.num_pairs / run.data.batch_pairs
        self.total = total_steps(run.schedule, steps_per_epoch=self.steps_per_epoch)
        if accelerator.device.type == "cpu":
            _choose_gemm(folder)
        torch.manual_seed(run.loop.seed)
        self.method = parts.build().to(accelerator.device)
        if run.lora.base == "bf16" and run.loop.precision != "bf16":
            raise ValueError(
                "lora.base is bf16, expected fp32 where loop.precision is fp32: frozen weights in bfloat16 compute under its"
                " autocast only; change one of them"
            )
        started = start(self.method, folder, run.start, reranks=run.reranks, lora=run.lora)
        self.first, self.base = started.steps, started.base
        self.method.set_activation_checkpointing(run.loop.activation_checkpointing)  # with adapters, some modules are new
        self.compiled: Compiled | None = None
        if run.loop.compile:
            self.compiled = compile_method(self.method, accelerator.device, cuda_graphs=run.loop.cuda_graphs)
        on_main(lambda: folder.forget_evaluations_after(self.first))
        self.saved = self.first
        self.batches = parts.make_batches(
            start_step=self.first,
            num_steps=self.total - self.first,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        micro_batches = self.batches.micro_batches_per_step
        check_contrast(self.method, run.needs.contrast, micro_batches=micro_batches)
        self.parallel = spread(self.method, run, accelerator, micro_batches=micro_batches, build=self._build_again)
        self.parallel.load_optimiser_tensors(started.optimiser_tensors)
        self.stepper = Stepper(
            run,
            accelerator=accelerator,
            parallel=self.parallel,
            weights=self.method.weights,
            steps_per_epoch=self.steps_per_epoch,
            micro_batches=micro_batches,
            pulse=pulse,
        )
        self.profile = StepProfile(folder.profile, device=accelerator.device, steps=self._steps_to_profile())
        self.journal = Journal(run, folder, accelerator, step=self.first, total_steps=self.total, mfu=parts.mfu)

    def _build_again(self) -> Method:
        """Another method with the same members."""
        method = self.parts.build()
        adapt(method, self.run.lora)
        return method

    def steps(self) -> None:
        """The loop."""
        if self.first == self.total:
            logger.info("all %d steps of %s are done, nothing is trained again", self.total, self.folder.path)
        self._validate_if_due(self.first)  # it may have been killed in the middle of this
        self.method.train()
        batches = TimedBatches(iter(self.batches))
        for step in range(self.first, self.total):
            done = step + 1
            self.profile.begin(done)
            self.stepper.begin(step)
            rates = self.stepper.set_learning_rates(step)
            if self.compiled is not None:
                self.compiled.begin_step()
            losses = self.stepper.forward_backward(step, batches)
            if step == self.first and self.run.lora.on:
                logger.info("step %d: %s", done, gradients_in_words(self.parallel.gradient_norms()))
            waited_s = batches.take_waited_s()
            # No update where a number is not finite.
            used_gib = peak_gib(self.accelerator.device) if self.journal.shows(done) else 0.0
            agreement = self.stepper.update(step, losses, self.signals.requested, data_wait_s=waited_s, memory_gib=used_gib)
            self.method.after_step()  # momentum encoder and queue, where there are
            read = agreement.read()
            self.pulse.enter("")
            check_finite(read.losses, step=done, keys=losses.keys, folder=self.folder)
            line = {"step": done, "epoch": done / self.steps_per_epoch, **read.losses, **rates}
            line["data_wait_s"] = round(read.data_wait_s, 4)
            self.journal.add(with_numbers(line, read.numbers), memory_gib=read.memory_gib)
            self._end_profile(done)
            if self.compiled is not None:
                self.compiled.tell(done)
            if step == self.first and (said := self.method.first_step_in_words()):
                logger.info("%s", said)
            if read.exit_status:
                self._stop(done, read.exit_status)
            if self._save_is_due(done):
                self._save(done)
            self._validate_if_due(done)
            self.pulse.judged = True
        if self.first < self.total:
            logger.info("largest memory of each process: %s", memory_of_all())

    def finish(self) -> None:
        """Touch the test split once, with the selected weights. A second start of a finished run does nothing."""
        if self.parts.test is None or not self.run.evaluation.test:
            return
        weights = self.total
        if self.run.evaluation.selection == "val" and self.parts.validate is not None:
            weights = on_main(lambda: _best_step(self.folder))
        if weights != self.total and on_main(lambda: self.folder.read_evaluation("test", self.total)) is None:
            best = checkpoint.folder_of(self.folder.checkpoints, weights)
            on_main(lambda: _check_best(best), doing=f"reading {best}")
        self._evaluate("test", self.parts.test, self.total, weights=weights)

    def _stop(self, step: int, exit_status: int) -> None:
        self._save(step)
        logger.warning(
            "stopped as asked after step %d of %d, all saved in %s: run the same command again to go on",
            step,
            self.total,
            self.folder.path,
        )
        raise StoppedBySignal(exit_status)

    def _save_is_due(self, step: int) -> bool:
        every = self.run.loop.save_steps
        return step == self.total or bool(every and step % every == 0)

    def _save(self, step: int) -> None:
        if step == self.saved:
            return
        self.journal.progress.pause()
        self.journal.sync()
        began = time.perf_counter()
        held, optimiser = self.parallel.model_tensors(), self.parallel.optimiser_tensors()
        model = {name: tensor for name, tensor in held.items() if name not in self.base.frozen}
        on_main(lambda: self._write_checkpoint(step, model, optimiser), doing="saving a checkpoint")
        on_main(lambda: self._write_timing(save_s=time.perf_counter() - began))
        self.saved = step
        self.journal.progress.resume()

    def _write_checkpoint(self, step: int, model: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        checkpoint.save(
            self.folder.checkpoints,
            step=step,
            model=model,
            optimiser=optimiser,
            progress={
                "step": step,
                "pairs_seen": step * self.run.data.batch_pairs,
                "total_steps": self.total,
                checkpoint.BASE: self.base.sha256,
            },
        )
        checkpoint.prune(self.folder.checkpoints, keep=self.run.loop.keep_checkpoints, best=best_step(self.folder))

    def _write_timing(self, *, save_s: float) -> None:
        """For `tbps doctor`: how long a signal waits at most."""
        step_s = self.run.data.batch_pairs / self.journal.last_pairs_per_s if self.journal.last_pairs_per_s else 0.0
        try:
            write_json(self.folder.timing, {"step_s": round(step_s, 3), "save_s": round(save_s, 3)})
        except OSError as error:  # the checkpoint is good, and the next save writes it again
            logger.warning(
                "%s could not be written (%s): it is tried again at the next save", self.folder.timing, words_of(error)
            )

    def _steps_to_profile(self) -> range:
        """None but on the first process."""
        return steps_to_profile(
            self.run.loop.profile if self.accelerator.is_main_process else 0,
            first=self.first,
            total=self.total,
            ends_at=lambda step: self._save_is_due(step) or self._validation_is_due(step),
        )

    def _end_profile(self, step: int) -> None:
        self.journal.progress.pause()  # writing a trace takes seconds
        self.profile.end(step)
        self.journal.progress.resume()

    def _validation_is_due(self, step: int) -> bool:
        every = self.run.evaluation.every_epochs * self.steps_per_epoch
        due = step == self.total or bool(every and step and math.floor(step / every) > math.floor((step - 1) / every))
        return self.parts.validate is not None and due

    def _validate_if_due(self, step: int) -> None:
        if self._validation_is_due(step):
            assert self.parts.validate is not None
            self._save(step)  # first, so that a kill during the evaluation costs the evaluation only
            self._evaluate("val", self.parts.validate, step, weights=step)

    def _evaluate(self, split: str, evaluate: Evaluate, step: int, *, weights: int) -> None:
        """Use the values kept for `step`, or make and keep them, with the weights of step `weights`."""
        self.journal.progress.pause()
        values = on_main(lambda: self.folder.read_evaluation(split, step))
        if values is None:
            made = {"weights_of_step": weights, **self._measure(split, evaluate, weights)}
            on_main(lambda: self.folder.write_evaluation(split, step, made))
            values = on_main(lambda: made)
        self.journal.add_evaluation(split, step, values)
        self.journal.progress.resume()

    def _measure(self, split: str, evaluate: Evaluate, step: int) -> dict[str, float]:
        method = self.parallel.whole_method()
        torch.manual_seed(self.run.loop.seed)  # as after a restart, should an evaluation draw
        if step != self.saved:
            folder = checkpoint.folder_of(self.folder.checkpoints, step)
            checkpoint.load_model(method, folder, without=self.base.frozen, copies=method.copies)
        method.eval()
        try:
            with torch.no_grad(), self.signals.at_once(), without_graphs(self.compiled):
                return evaluate(method, step)
        except StoppedBySignal:
            logger.warning("stopped as asked, %s is unfinished: run the same command again to do it anew", split)
            raise
        finally:
            method.train()


def _choose_gemm(folder: RunFolder) -> None:
    """The first process looks or remembers; the others do as it does."""

    def choose() -> str:
        chosen = choose_gemm(folder.machine_choice("gemm"))
        folder.remember_machine_choice("gemm", chosen)
        return chosen

    torch.set_float32_matmul_precision(on_main(choose, doing="choosing the library of products"))


def _best_step(folder: RunFolder) -> int:
    step = best_step(folder)
    assert step is not None, "the last step is always validated"
    return step


def _check_best(folder: Path) -> None:
    if reason := checkpoint.why_broken(folder):
        raise ValueError(f"the best checkpoint {folder} cannot be tested: {reason}; copy it from a backup, or train again")

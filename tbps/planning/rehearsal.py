"""One training step of a run at its real size, on a device that need not be there: what it costs.

The step is the one that trains (tbps/training/step.py): views, forward, backward, clipping, update, momentum and queue, of
the method as the recipe makes it. Only its tensors hold no numbers (tbps/planning/fake_device.py).
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from tbps.config.run import Run
from tbps.data.batch import HostBatch
from tbps.methods.method import Method
from tbps.methods.registry import build_method
from tbps.planning.fake_device import FakeDevice, Sent
from tbps.planning.parts import Parts
from tbps.planning.tally import ALIGNMENT, Tally
from tbps.planning.typical_batch import Reading, typical_batch
from tbps.training.adapters import put_adapters
from tbps.training.contrast import check_contrast
from tbps.training.data_parallel import DataParallel
from tbps.training.peers import Pulse
from tbps.training.step import Stepper


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Of one optimiser step of one process with one micro-batch."""

    pairs: int
    """Of the micro-batch."""
    processes: int
    parameters: Mapping[str, int]
    """Numbers of weights: "trained", "frozen" and "momentum"."""
    kept: Mapping[str, int]
    """Bytes that stay from step to step on a process that holds everything: "trained", "frozen", "momentum", "buffer" (a
    queue) and "optimiser"."""
    gradient: int
    """Bytes of all gradients."""
    activations: int
    """Most bytes alive at once in forward and backward beside what is kept and gradients: activations, views, working
    copies of weights, temporary ones."""
    peak: int
    """Most bytes alive at once in the whole step, as `torch.cuda.max_memory_allocated` counts them on a single GPU."""
    update: int
    """Most bytes that the update holds beside what is kept and gradients."""
    flops: Mapping[str, int]
    """Of forward and backward by part (tbps/planning/parts.py)."""
    sent: tuple[Sent, ...]
    """Collectives, but for those of gradients (tbps/planning/collectives.py, `in_order`)."""
    gradients: tuple[tuple[torch.Size, torch.dtype], ...]
    """Shapes and types, in the order in which they are ready."""
    operations: int
    """Of forward, backward and update, views left out: what the host launches."""
    waits: int
    """How often the host asked the device for a number and waited for it; copies that it waits for late are none."""
    checkpoint: int
    """Bytes of a checkpoint: what is trained or changes, and the optimiser's state."""

    @property
    def gathered(self) -> int:
        """Bytes that collectives inside forward and after the step bring to each process: features, identities."""
        return sum(sent.num_bytes for sent in self.sent if "gather" in sent.operation)

    @property
    def flops_per_pair(self) -> float:
        """Of forward and backward."""
        return sum(self.flops.values()) / self.pairs


def rehearse(run: Run, *, pairs: int, device: str = "cuda", processes: int = 1, host: HostBatch | None = None) -> StepCost:
    """What one step costs a process that computes `pairs` pairs in one micro-batch, beside `processes` - 1 others.

    device: "cuda" as on a GPU, whether or not there is one, with torch's allocator; "cpu" as on this machine; host: the
    micro-batch, if not a typical one (tbps/planning/typical_batch.py).
    ValueError: pairs are no whole groups, or the run cannot be planned; the message says why.
    """
    if pairs % run.data.group_pairs:
        raise ValueError(f"pairs is {pairs}, expected a multiple of data.group_pairs ({run.data.group_pairs})")
    run = replace(run, data=replace(run.data, batch_pairs=pairs * processes, micro_batch_pairs=0))
    with stage(run, pairs=pairs, device=device, processes=processes) as fake:
        return Rehearsal(run, fake, pairs=pairs, processes=processes).cost(host or typical_batch(run, pairs))


@contextmanager
def stage(run: Run, *, pairs: int, device: str = "cuda", processes: int = 1, rank: int = 0) -> Iterator[FakeDevice]:
    """A device on which nothing is computed, and other processes that are not there, for steps of `pairs` pairs."""
    where = torch.device(device, 0) if device != "cpu" else torch.device("cpu")
    with _quiet():  # the first fake tensor imports torch's compiler
        fake = FakeDevice(where, guess=Reading(run, pairs), tally=Tally(alignment=1 if device == "cpu" else ALIGNMENT))
        with _several(processes, rank), fake.active():
            yield fake


class Rehearsal:
    """A run's step on a fake device, which must be active."""

    def __init__(
        self,
        run: Run,
        fake: FakeDevice,
        *,
        pairs: int,
        processes: int = 1,
        rank: int = 0,
        micro_batches: int = 1,
        method: Method | None = None,
    ) -> None:
        """method: of another rehearsal on the device, if not a new one; it keeps its weights, not its optimiser's state."""
        self.run, self.fake, self.tally, self.pairs, self.processes = run, fake, fake.tally, pairs, processes
        self.micro_batches = micro_batches
        self.frozen: frozenset[str] = frozenset()
        self.method = self._build() if method is None else method
        self._mark()
        bf16 = run.loop.precision == "bf16"
        process = cast(Accelerator, _Process(fake.device, bf16=bf16, rank=rank, processes=processes))
        check_contrast(self.method, run.needs.contrast, micro_batches=micro_batches)
        self.parallel = DataParallel(process, self.method, run.optim)
        self._make_optimiser_state()
        self.stepper = Stepper(
            run,
            accelerator=process,
            parallel=self.parallel,
            weights=self.method.weights,
            steps_per_epoch=1.0,
            micro_batches=micro_batches,
            pulse=Pulse(),
        )

    @property
    def last_stage_step(self) -> int:
        """A step in the last stage of the schedule."""
        return max(self.stepper.second_stage_step, 0) + 1

    def step(self) -> None:
        """A whole one, in the last stage of the schedule, on batches from pinned memory; what it did is in `fake`."""
        batches = [typical_batch(self.run, self.pairs).pin_memory() for _ in range(self.micro_batches)]
        self.method.train()
        self._forget()
        self.stepper.set_learning_rates(self.last_stage_step)
        losses = self.stepper.forward_backward(self.last_stage_step, iter(batches))
        agreement = self.stepper.update(self.last_stage_step, losses, 0, data_wait_s=0.0)
        self.method.after_step()
        agreement.read()

    def _forget(self) -> None:
        """What was done before is not counted."""
        self.tally.start()
        self.fake.sent.clear()
        self.fake.gradients.clear()
        self.fake.waits.found.clear()
        self.fake.operations = 0

    def cost(self, host: HostBatch) -> StepCost:
        """Of a step in the last stage of the schedule."""
        Parts(self.method, self.fake.enter_part)
        kept = {str(kind): size for kind, size in self.tally.live.items() if kind not in ("gradient", "passing")}
        host = host.each_tensor(self.fake.to_device)
        self.method.train()
        self._forget()
        step = self.last_stage_step
        losses = self.stepper.forward_backward(step, iter([host]))
        flops, activations, peak = dict(self.tally.flops), self.tally.passing_peak, self.tally.peak
        gradient = self.tally.live["gradient"]
        self.tally.start()
        self.stepper.update(step, losses, 0, data_wait_s=0.0)
        self.method.after_step()
        return StepCost(
            pairs=self.pairs,
            processes=self.processes,
            parameters=_numbers(self.method),
            kept=kept,
            gradient=gradient,
            activations=activations,
            peak=max(peak, self.tally.peak),
            update=self.tally.passing_peak,
            flops=flops,
            sent=tuple(self.fake.sent),
            gradients=tuple(self.fake.gradients),
            operations=self.fake.operations,
            waits=self.fake.waits.early,
            checkpoint=self._checkpoint(),
        )

    def _build(self) -> Method:
        run = self.run
        with torch.device(self.fake.device):
            method = build_method(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities)
            self.frozen = put_adapters(method, run.lora)
        method.set_activation_checkpointing(run.loop.activation_checkpointing)
        return method

    def _mark(self) -> None:
        for name, parameter in self.method.named_parameters():
            self.tally.mark(parameter, _kind(self.method, name, parameter))
        for buffer in self.method.buffers():
            self.tally.mark(buffer, "buffer")

    def _make_optimiser_state(self) -> None:
        """As the first step makes it: by a step without gradients worth the name."""
        for parameter in self.parallel.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.parallel.optimiser.step()
        for state in self.parallel.optimiser.state.values():
            for tensor in state.values():
                self.tally.mark(tensor, "optimiser")
        self.parallel.optimiser.zero_grad(set_to_none=True)

    def _checkpoint(self) -> int:
        held = {name: tensor for name, tensor in self.parallel.model_tensors().items() if name not in self.frozen}
        return sum(
            tensor.numel() * tensor.element_size()
            for tensors in (held, self.parallel.optimiser_tensors())
            for tensor in tensors.values()
        )


def _kind(method: Method, name: str, parameter: Tensor) -> Any:
    if any(name.startswith(f"{copy}.") for copy in method.copies):
        return "momentum"
    return "trained" if parameter.requires_grad else "frozen"


def _numbers(method: Method) -> dict[str, int]:
    numbers: Counter[str] = Counter(trained=0, frozen=0, momentum=0)
    for name, parameter in method.named_parameters():
        numbers[_kind(method, name, parameter)] += parameter.numel()
    return dict(numbers)


class _Process:
    """What a step asks of Accelerate, of one of `processes` processes."""

    def __init__(self, device: torch.device, *, bf16: bool, rank: int, processes: int) -> None:
        self.device, self.bf16, self.process_index, self.num_processes = device, bf16, rank, processes

    def autocast(self) -> AbstractContextManager[Any]:
        """The run's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def prepare_model(self, method: Method, *, device_placement: bool) -> Any:
        """The method in the run's precision."""

        def forward(*args: Any) -> Any:
            with self.autocast():
                return method(*args)

        return forward

    def no_sync(self, model: Any) -> AbstractContextManager[None]:
        """Nothing is exchanged."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients."""
        loss.backward()


@contextmanager
def _several(processes: int, rank: int) -> Iterator[None]:
    """A process group of which all others are imagined: collectives have the shapes that they would have."""
    if processes == 1 or dist.is_initialized():
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=processes, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's words about deprecated names that nobody here chose, and without searches for circles in large graphs:
    tensors go when the last who holds them goes."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collects:
            gc.enable()

"""What a run will cost on some GPUs: memory, time, traffic, from rehearsed steps (tbps/planning/rehearsal.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from tbps.config.data import Benchmark
from tbps.config.lora import Lora
from tbps.config.run import Run
from tbps.data.official_split import OFFICIAL
from tbps.planning.gpus import Gpu
from tbps.planning.rehearsal import StepCost, rehearse
from tbps.training.schedule import total_steps

GIB = 2**30
UTILISATION = 0.4
"""Share of a GPU's arithmetic that a step reaches, unless said otherwise: what such steps reach without compilation."""
FREE_SHARE, CONTEXT_GIB = 0.94, 1.0
"""Of a GPU's memory: what is left by fragments, and what CUDA and its libraries take beside tensors."""
LAUNCH_S = 6e-6
"""The host launches an operation in this time; a step with little to compute waits for it."""
HIDDEN_SHARE = 0.6
"""Share of a step's computation behind which gradients travel: backward without its begin."""
BUCKET_BYTES = 500_000_000 * 4
"""DeepSpeed's buffer for gradients that are being reduced: `reduce_bucket_size` numbers of float32."""
IMAGES_PER_CORE = 830 * 384 * 384
"""Pixels that one core decodes, resizes and stacks in a second: half of what benchmarks/loader.py shows on a fast core."""
HOST_VIEWS = 3.0
"""How much longer a pair takes where augmentations change each view's pixels on the host; ours, a guess."""
LORA = Lora(targets="q,k,v,out")
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way of training: activation checkpointing or not, adapters or not."""

    checkpointing: bool
    lora: bool
    cost: StepCost
    """Of a rehearsed micro-batch of some pairs."""
    activations_fixed: float
    """Bytes of its activations that do not grow with the micro-batch."""

    def activations(self, pairs: int) -> float:
        """Bytes, of a micro-batch of so many pairs."""
        growing = max(0.0, self.cost.activations - self.activations_fixed)
        return self.activations_fixed + growing * pairs / self.cost.pairs

    def kept(self, stage: int, gpus: int) -> float:
        """Bytes that lie on each GPU from step to step, gradients included, under a stage of ZeRO (0 = DDP).

        As DeepSpeed 0.19 has it with float32 weights: stage 1 shares the optimiser's state and its copy of what is trained,
        stage 2 gradients too, behind a buffer of fixed size; stage 3 all parameters, but those of a model below 10^9 stay
        gathered during a step, since it releases none that are read again soon.
        """
        kept, gradient = self.cost.kept, self.cost.gradient
        trained, optimiser = kept.get("trained", 0), kept.get("optimiser", 0)
        weights = trained + kept.get("frozen", 0) + kept.get("momentum", 0)
        rest = weights + kept.get("buffer", 0)
        if stage == 0:
            return rest + optimiser + gradient
        shared = (trained + optimiser) / gpus
        if stage == 1:
            return rest + shared + gradient + gradient / gpus + BUCKET_BYTES
        if stage == 2:
            return rest + shared + gradient / gpus + BUCKET_BYTES
        return rest + weights / gpus + shared + gradient / gpus + BUCKET_BYTES

    def total(self, stage: int, gpus: int, pairs: int) -> float:
        """Bytes on each GPU at the worst moment of a step."""
        return self.kept(stage, gpus) + max(self.activations(pairs), self.cost.update)

    def largest(self, stage: int, gpus: int, gpu: Gpu, group: int) -> int:
        """Pairs of the largest micro-batch that fits, whole groups; 0 = none does."""
        room = (gpu.memory_gib * FREE_SHARE - CONTEXT_GIB) * GIB - self.kept(stage, gpus) - self.activations_fixed
        per_pair = max(1.0, (self.cost.activations - self.activations_fixed) / self.cost.pairs)
        return max(0, int(room / per_pair) // group * group)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on some GPUs."""

    run: Run
    """As it is planned, with the batch of all GPUs."""
    gpu: Gpu
    gpus: int
    per_node: int
    utilisation: float
    measured_pairs_per_s: float | None
    """What all GPUs together were measured at; None = from FLOPs and utilisation."""
    variants: tuple[Variant, ...]
    """The first one is the run's own."""
    notes: tuple[str, ...]

    @property
    def own(self) -> Variant:
        """As the recipe trains."""
        return self.variants[0]

    @property
    def share(self) -> int:
        """Pairs of a step on each GPU."""
        return self.run.data.batch_pairs // self.gpus

    @property
    def micro_pairs(self) -> int:
        """Pairs of a micro-batch."""
        return self.run.data.micro_batch_pairs or self.share

    @property
    def tflops(self) -> float:
        """Of one GPU in the run's precision."""
        return self.gpu.tflops(self.run.loop.precision)

    @property
    def compute_s(self) -> float:
        """Of a step, by FLOPs."""
        return self.own.cost.flops_per_pair * self.share / (self.tflops * 1e12 * self.utilisation)

    @property
    def launch_s(self) -> float:
        """Of a step: what the host takes to launch it."""
        return self.own.cost.operations * LAUNCH_S * (self.share // self.micro_pairs)

    @property
    def gradient_bytes(self) -> float:
        """Sent by each GPU in a step: a ring's all-reduce of float32 gradients."""
        return 2 * (self.gpus - 1) / self.gpus * self.own.cost.gradient

    @property
    def gathered_bytes(self) -> float:
        """Features and identities of all pairs of a step, which each GPU receives."""
        return self.own.cost.gathered * self.share / self.own.cost.pairs

    @property
    def traffic_s(self) -> float:
        """Of gradients and features, over the slowest link that they take."""
        link = self.gpu.network_gb_s if self.gpus > self.per_node else self.gpu.link_gb_s
        return (self.gradient_bytes + self.gathered_bytes) / (link * 1e9) if self.gpus > 1 else 0.0

    @property
    def waiting_s(self) -> float:
        """Of a step: traffic that computation does not hide."""
        return max(0.0, self.traffic_s - HIDDEN_SHARE * self.compute_s)

    @property
    def step_s(self) -> float:
        """Of a whole step."""
        if self.measured_pairs_per_s:
            return self.run.data.batch_pairs / self.measured_pairs_per_s
        return max(self.compute_s, self.launch_s) + self.waiting_s

    @property
    def pairs_per_s(self) -> float:
        """Of all GPUs together."""
        return self.run.data.batch_pairs / self.step_s

    @property
    def num_pairs(self) -> int | None:
        """Of the training split; None where nobody has said."""
        limit = self.run.data.limit_pairs
        numbers = [_published(benchmark, limit) for benchmark in self.run.data.trained_on]
        return None if None in numbers else sum(number or 0 for number in numbers)

    @property
    def steps(self) -> int | None:
        """Of the whole run; None where the number of pairs is not known."""
        if self.num_pairs is None:
            return self.run.schedule.max_steps or None
        return total_steps(self.run.schedule, steps_per_epoch=self.num_pairs / self.run.data.batch_pairs)

    @property
    def loader_cores(self) -> float:
        """On each node, so that no step waits for data."""
        height, width = self.run.data.image_px
        slower = HOST_VIEWS if self.run.data.changes_on_host else 1.0
        on_node = self.pairs_per_s / self.gpus * min(self.gpus, self.per_node)
        return on_node * height * width / IMAGES_PER_CORE * slower

    def limit(self) -> str:
        """The resource that limits the run, in a sentence."""
        largest = self.own.largest(0, self.gpus, self.gpu, self.run.data.group_pairs)
        if largest < self.micro_pairs:
            return self._too_little_memory(largest)
        if self.measured_pairs_per_s:
            reached = self.own.cost.flops_per_pair * self.pairs_per_s / self.gpus / (self.tflops * 1e12)
            return f"Measured: {self.pairs_per_s:,.0f} pairs/s are {100 * reached:.0f} % of the GPUs' arithmetic."
        times = {"arithmetic": self.compute_s, "launches": self.launch_s, "traffic": self.waiting_s}
        worst = max(times, key=lambda name: times[name])
        milliseconds = 1000 * times[worst]
        if worst == "launches":
            return (
                f"The host limits: it launches {self.own.cost.operations:,} operations a micro-batch in about"
                f" {milliseconds:.0f} ms, and {self.micro_pairs} pairs on a GPU compute in {1000 * self.compute_s:.0f} ms;"
                " more pairs on each GPU, or fewer GPUs, cost nothing more."
            )
        if worst == "traffic":
            return (
                f"The network limits: gradients travel {1000 * self.traffic_s:.0f} ms a step, {milliseconds:.0f} ms of them"
                " longer than computation hides; more pairs on each GPU, or fewer GPUs, use it better."
            )
        faster = self.gpu.bf16_tflops / self.gpu.fp32_tflops
        hint = f"; in bfloat16 (--loop.precision bf16) they have {faster:.0f} times as much" if faster > 1 else ""
        return f"The GPUs' arithmetic limits: {milliseconds:.0f} ms of a step's {1000 * self.step_s:.0f} ms" + (
            f", in float32{hint}." if self.run.loop.precision == "fp32" else "."
        )

    def _too_little_memory(self, largest: int) -> str:
        need = self.own.total(0, self.gpus, self.micro_pairs) / GIB
        if largest:
            return (
                f"Memory limits: {self.micro_pairs} pairs at once need {need:.1f} GiB of {self.gpu.memory_gib:g}; train with"
                f" --data.micro-batch-pairs, at most {largest}."
            )
        fits = [one for one in self.variants if one.largest(0, self.gpus, self.gpu, self.run.data.group_pairs)]
        hint = "activation checkpointing" if any(one.checkpointing for one in fits) else "adapters, ZeRO or a larger GPU"
        return (
            f"Memory limits: not one group of {self.run.data.group_pairs} pairs fits, which with all else needs"
            f" {self.own.total(0, self.gpus, self.run.data.group_pairs) / GIB:.1f} GiB of {self.gpu.memory_gib:g};"
            f" use {hint}."
        )


def make_plan(
    run: Run,
    gpu: Gpu,
    *,
    gpus: int,
    per_node: int | None = None,
    utilisation: float = UTILISATION,
    pairs_per_s: float | None = None,
    batch_given: bool = False,
) -> Plan:
    """Rehearse a run's steps and plan it. ValueError: it cannot be shared out so, or not be planned.

    batch_given: the user named the batch; otherwise one that cannot be shared out becomes a group on each GPU.
    """
    for option, value in (("--gpus", gpus), ("--utilisation", utilisation), ("--pairs-per-s", pairs_per_s or 1)):
        if not value > 0:
            raise ValueError(f"{option} is {value:g}, expected more than 0")
    if utilisation > 1:
        raise ValueError(f"--utilisation is {utilisation:g}, expected a share of the GPU's arithmetic, at most 1")
    run, notes = _share_out(run, gpus, batch_given=batch_given)
    if run.needs.identities and not run.data.num_identities:
        published = OFFICIAL.get(run.data.benchmark, {}).get("train")
        number = (published.identities if published else None) or 10_000
        run = replace(run, data=replace(run.data, num_identities=number))
        notes = (*notes, f"Classes of identities: {number:,}; --data.num-identities says otherwise.")
    return Plan(
        run=run,
        gpu=gpu,
        gpus=gpus,
        per_node=per_node or gpu.per_node,
        utilisation=utilisation,
        measured_pairs_per_s=pairs_per_s,
        variants=_rehearse_all(run, gpus),
        notes=notes,
    )


def _share_out(run: Run, gpus: int, *, batch_given: bool) -> tuple[Run, tuple[str, ...]]:
    data = run.data
    if data.batch_pairs % (gpus * data.group_pairs):
        groups = data.batch_pairs // data.group_pairs
        fitting = ", ".join(str(number) for number in range(1, groups + 1) if groups % number == 0)
        if batch_given:
            raise ValueError(
                f"data.batch_pairs is {data.batch_pairs}, {groups} groups of {data.group_pairs} pairs, which {gpus} GPUs"
                f" cannot share evenly; give --gpus one of {fitting}, or a multiple of {gpus * data.group_pairs} pairs"
            )
        batch = gpus * data.group_pairs
        note = (
            f"The recipe's batch of {data.batch_pairs} pairs is for {fitting} GPUs; planned with {batch}, a group of"
            f" {data.group_pairs} on each: train with --data.batch-pairs {batch}, or plan another."
        )
        return replace(run, data=replace(data, batch_pairs=batch, micro_batch_pairs=0)), (note,)
    share = data.batch_pairs // gpus
    if data.micro_batch_pairs and share % data.micro_batch_pairs:
        raise ValueError(
            f"data.micro_batch_pairs is {data.micro_batch_pairs}, expected a divisor of the {share} pairs that each of"
            f" {gpus} GPUs computes in a step; change it or use 0"
        )
    return run, ()


def _rehearse_all(run: Run, gpus: int) -> tuple[Variant, ...]:
    """The run's own way first, then with and without checkpointing and adapters."""
    group = run.data.group_pairs
    pairs = group * max(1, math.ceil(8 / group))
    ways = [(run.loop.activation_checkpointing, run.lora.on), (not run.loop.activation_checkpointing, run.lora.on)]
    if not run.lora.on and _has_encoders(run):
        ways += [(False, True), (True, True)]
    costs = [_rehearse(run, way, pairs, gpus) for way in ways]
    larger = _rehearse(run, ways[0], 2 * pairs, gpus)
    fixed = max(0.0, 2 * costs[0].activations - larger.activations)
    return tuple(
        Variant(checkpointing=way[0], lora=way[1], cost=cost, activations_fixed=min(fixed, 0.9 * cost.activations))
        for way, cost in zip(ways, costs, strict=True)
    )


def _has_encoders(run: Run) -> bool:
    from tbps.methods.registry import module_of

    return any(getattr(value, "encoders", ()) for value in vars(module_of(run.method)).values())


def _rehearse(run: Run, way: tuple[bool, bool], pairs: int, gpus: int) -> StepCost:
    checkpointing, lora = way
    changed = replace(run, loop=replace(run.loop, activation_checkpointing=checkpointing))
    changed = replace(changed, lora=LORA) if lora and not run.lora.on else changed
    return rehearse(changed, pairs=pairs, processes=gpus)


def _published(benchmark: str, limit: int) -> int | None:
    """Training pairs of a data set, at most `limit` (0 = all); None where none are published and there is no limit."""
    published = OFFICIAL.get(cast(Benchmark, benchmark), {}).get("train")
    number = published.captions if published else None
    return min(number, limit) if number and limit else number or limit or None


def bytes_in_words(size: float) -> str:
    """In GiB, MiB or KiB."""
    for unit, factor in (("GiB", GIB), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.1f} KiB"


def shares(flops: Mapping[str, int], pairs: int) -> dict[str, float]:
    """GFLOP a pair, by part."""
    return {part: number / pairs / 1e9 for part, number in flops.items()}

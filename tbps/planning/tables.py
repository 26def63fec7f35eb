"""A plan as text: a few tables and sentences."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from tbps.planning.collectives import counted, in_order
from tbps.planning.parts import PARTS
from tbps.planning.plan import CONTEXT_GIB, FREE_SHARE, GIB, STAGES, Plan, Variant, bytes_in_words, shares

WIDTH = 118


def plan_text(plan: Plan) -> str:
    """Everything that is planned."""
    run, gpu = plan.run, plan.gpu
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, highlight=False)
    console.print(
        f"{run.recipe} {run.name} on {plan.gpus} x {gpu.name} ({gpu.memory_gib:g} GiB, {plan.tflops:g} TFLOP/s"
        f" {run.loop.precision}; {gpu.source}): {run.data.batch_pairs} pairs a step, {plan.share} on each GPU"
        + (f" in micro-batches of {plan.micro_pairs}" if plan.micro_pairs != plan.share else "")
    )
    for note in plan.notes:
        console.print(note)
    console.print(_weights(plan), _memory(plan), _work(plan), _time(plan))
    if plan.gpus > 1:
        console.print(_collectives(plan))
    console.print(plan.limit())
    return out.getvalue().rstrip() + "\n"


def _weights(plan: Plan) -> Table:
    table = Table("", "numbers", "bytes", title="What every GPU holds (DDP)", title_justify="left")
    cost = plan.own.cost
    rows = (
        ("parameters, trained", cost.parameters["trained"], cost.kept.get("trained", 0)),
        ("parameters, frozen", cost.parameters["frozen"], cost.kept.get("frozen", 0)),
        ("momentum encoder", cost.parameters["momentum"], cost.kept.get("momentum", 0)),
        ("queue and other buffers", None, cost.kept.get("buffer", 0)),
        ("optimiser's state", None, cost.kept.get("optimiser", 0)),
        ("gradients", None, cost.gradient),
    )
    for name, numbers, size in rows:
        table.add_row(name, "" if numbers is None else f"{numbers:,}", bytes_in_words(size))
    return table


def _memory(plan: Plan) -> Table:
    """GiB on each GPU at the worst moment, and the largest micro-batch that fits."""
    stages = [stage for stage in STAGES if stage == 0 or stage in plan.run.needs.zero_stages]
    table = Table(
        "",
        "activations",
        *("DDP" if stage == 0 else f"ZeRO-{stage}" for stage in stages),
        "largest micro-batch",
        title=f"GiB on each GPU with micro-batches of {plan.micro_pairs} pairs"
        f" (a {plan.gpu.name} has {plan.gpu.memory_gib * FREE_SHARE - CONTEXT_GIB:.1f} for tensors)",
        title_justify="left",
    )
    for variant in plan.variants:
        totals = [f"{variant.total(stage, plan.gpus, plan.micro_pairs) / GIB:.2f}" for stage in stages]
        largest = variant.largest(0, plan.gpus, plan.gpu, plan.run.data.group_pairs)
        table.add_row(
            _name(variant, plan),
            f"{variant.activations(plan.micro_pairs) / GIB:.2f}",
            *totals,
            f"{largest:,}" if largest else "none",
        )
    return table


def _name(variant: Variant, plan: Plan) -> str:
    adapters = f"adapters on {plan.run.lora.targets or 'q,k,v,out'}" if variant.lora else "all weights"
    return adapters + (", checkpointing" if variant.checkpointing else "")


def _work(plan: Plan) -> Table:
    cost = plan.own.cost
    by_part = shares(cost.flops, cost.pairs)
    table = Table(*PARTS, "in all", title="GFLOP a pair, forward and backward", title_justify="left")
    table.add_row(*(f"{by_part.get(part, 0.0):.1f}" for part in PARTS), f"{cost.flops_per_pair / 1e9:.1f}")
    return table


def _time(plan: Plan) -> Table:
    table = Table("", "", title="Time and traffic", title_justify="left", show_header=False)
    if plan.measured_pairs_per_s:
        reached = f"as measured, {plan.measured_pairs_per_s:,.0f} pairs/s"
    else:
        reached = (
            f"at {100 * plan.utilisation:.0f} % of the GPU's arithmetic: {1000 * plan.compute_s:.1f} ms computing,"
            f" {1000 * plan.launch_s:.1f} ms launching, {1000 * plan.waiting_s:.1f} ms waiting for others"
        )
    table.add_row("a step", f"{1000 * plan.step_s:.1f} ms, {plan.pairs_per_s:,.0f} pairs/s, {reached}")
    if plan.gpus > 1:
        table.add_row(
            "sent by each GPU a step",
            f"gradients {bytes_in_words(plan.gradient_bytes)} (float32, ring), features"
            f" {bytes_in_words(plan.gathered_bytes)} received; {1000 * plan.traffic_s:.1f} ms over the slowest link",
        )
    table.add_row("the whole run", _run_time(plan))
    kept = plan.run.loop.keep_checkpoints + 1
    size = plan.own.cost.checkpoint
    table.add_row("a checkpoint", f"{bytes_in_words(size)}; {kept} are kept at most: {bytes_in_words(kept * size)}")
    nodes = min(plan.gpus, plan.per_node)
    table.add_row("loader", f"{plan.loader_cores:.1f} cores for the {nodes} GPUs of a node")
    return table


def _collectives(plan: Plan) -> Table:
    """What every GPU takes part in, in the order of the first of each kind."""
    cost = plan.own.cost
    table = Table(
        "asked for by",
        "what",
        "type",
        "how many",
        "MB a step",
        title=f"Collectives of a step (DDP, {plan.share} pairs on each GPU)",
        title_justify="left",
    )
    for one, number, size in counted(in_order(cost.sent, cost.gradients)):
        rows = plan.share / cost.pairs if "gather" in one.what else 1  # of the pairs that were rehearsed
        table.add_row(one.place, one.what, one.kind, f"{number:,}", f"{rows * size / 1e6:,.3f}")
    return table


def _run_time(plan: Plan) -> str:
    if plan.steps is None:
        return f"not known: nobody has published the size of {plan.run.data.benchmark}; give --data.limit-pairs"
    hours = plan.steps * plan.step_s / 3600
    epochs = f"{plan.run.schedule.epochs:g} epochs of {plan.num_pairs:,} pairs" if plan.num_pairs else "as limited"
    return f"{hours:.2f} hours, {hours * plan.gpus:,.1f} GPU hours: {plan.steps:,} steps, {epochs}; without evaluations"

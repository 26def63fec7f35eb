"""One step of a method on a GPU beside the same step on the CPU: losses and gradients, from the same weights and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from real_methods import build, host_batch, run_of
from real_step import total_of
from torch import Tensor

from tbps.config.run import Run
from tbps.data.views import make_views
from tbps.training.precision import keep_float32
from tbps.training.seeds import seed_micro_step

CPU = torch.device("cpu")
PAIRS = 8
SMALL = 1e-3
"""Gradients below this share of the largest one of all are compared with that share: they are rounding."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of a GPU's step from the CPU's."""

    loss: float
    """Largest relative difference of a loss."""
    loss_name: str
    gradient: float
    """Largest difference of a gradient's entry, relative to that gradient's largest one."""
    gradient_name: str
    losses: dict[str, float]
    """Of the CPU's step."""


def difference(
    name: str, *, precision: str = "fp32", device: torch.device, quick: bool = True, pairs: int = PAIRS
) -> Difference:
    """Compare a step in `precision` on `device` with one in float32 on the CPU. Nothing is dropped; the words of RaSa's
    generator and its negatives are given, so that rounding cannot turn one choice into another."""
    expected, wanted = _step(run_of(name, quick=quick, pairs=pairs, dropout=False), CPU)
    run = run_of(name, quick=quick, pairs=pairs, precision=precision, dropout=False)
    found, gradients = _step(run, device)
    loss, loss_name = max((abs(found[one] - value) / max(abs(value), 1e-6), one) for one, value in expected.items())
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    if wanted.keys() != gradients.keys():
        raise AssertionError(f"only one of the two has gradients of {sorted(wanted.keys() ^ gradients.keys())}")
    gradient, gradient_name = max(
        (float((gradients[one] - value).abs().max() / value.abs().max().clamp(min=SMALL * largest)), one)
        for one, value in wanted.items()
    )
    return Difference(loss=loss, loss_name=loss_name, gradient=gradient, gradient_name=gradient_name, losses=expected)


def _step(run: Run, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients, on the CPU, of the second step: the queue is no longer empty."""
    keep_float32()  # as every run
    method: Any = build(run).to(device)
    losses: dict[str, Tensor] = {}
    for number in range(2):
        method.zero_grad(set_to_none=True)
        seed_micro_step(seed=1, step=number, first_group=0)
        host = host_batch(run, seed=number)
        batch = make_views(host, device, pixels=run.data.pixels, group_pairs=run.data.group_pairs)
        other = torch.arange(len(host.keys)).roll(1)
        words = host_batch(run, seed=7).own.token_ids_BL
        length = host.own.token_ids_BL.shape[1]
        words = torch.nn.functional.pad(words, (0, max(0, length - words.shape[1])), value=int(words[0, 1]))[:, :length]
        host.draws.recorded |= {"negative_image": other, "negative_caption": other, "words": words}
        with torch.autocast(device.type, torch.bfloat16, enabled=run.loop.precision == "bf16"):
            losses = method(batch, host.draws)[0]
        total_of(method, losses).backward()
        method.after_step()
    gradients = {
        name: parameter.grad.float().cpu() for name, parameter in method.named_parameters() if parameter.grad is not None
    }
    return {name: float(loss.detach()) for name, loss in losses.items()}, gradients

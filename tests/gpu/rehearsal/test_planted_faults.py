"""The rehearsal is red where a fault is planted, and names its line.

The ten faults: an operand on the host; item(); nonzero(); a boolean index; torch.tensor(..., device=); a copy from memory
that is not pinned; an operation without a bf16 kernel, or operands of two types; a shape of values (unique); `if` on a
tensor of the device; a collective that only one process makes (test_collectives.py). Beside them: cpu(), synchronize(),
numpy(), an index of the host, a number read in a backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import (
    ReadsInBackward,
    asks_numpy,
    branches_on_a_number,
    copies_from_memory_that_is_not_pinned,
    copies_to_the_host,
    counts_what_is_not_zero,
    has_a_shape_of_values,
    has_no_bfloat16_kernel,
    indexes_by_a_mask,
    indexes_by_the_host,
    makes_a_constant_on_the_device,
    multiplies_two_types,
    operand_on_the_host,
    reads_a_number,
    reads_in_backward,
    waits_for_everything,
)
from rehearsed import PAIRS, check, real_run
from torch import Tensor

from tbps.methods.clip import clip
from tbps.planning.rehearsal import Rehearsal, stage
from tbps.planning.waits import NotOnDevice, naming_lines

Fault = Callable[[Tensor], Tensor]
FAULTS: dict[Fault, str] = {
    operand_on_the_host: "Expected all tensors to be on the same device",
    reads_a_number: r"reads a number of the device: item\(\)",
    counts_what_is_not_zero: "DynamicOutputShapeException: aten.nonzero",
    indexes_by_a_mask: "DynamicOutputShapeException: aten.nonzero",
    makes_a_constant_on_the_device: "copies to the device from memory that is not pinned",
    copies_from_memory_that_is_not_pinned: "copies to the device from memory that is not pinned",
    has_no_bfloat16_kernel: "no CUDA kernel for bfloat16",
    multiplies_two_types: "is given bfloat16 and float32",
    has_a_shape_of_values: "DynamicOutputShapeException: aten._unique2",
    branches_on_a_number: "reads a number of the device",
    copies_to_the_host: "copies from the device",
    waits_for_everything: "waits for all that the device was given",
    asks_numpy: "can't convert a tensor of the device to numpy",
    indexes_by_the_host: "indexes by a tensor of the host",
    reads_in_backward: "reads a number of the device",
}


def place_of(fault: Fault) -> str:
    """file:line of its marked line."""
    lines, first = inspect.getsourcelines(ReadsInBackward if fault is reads_in_backward else fault)
    (marked,) = (number for number, line in enumerate(lines) if line.rstrip().endswith("# here"))
    return f"tests/gpu/rehearsal/faults.py:{first + marked} "


def plant(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """In CLIP's contrast, whose image features pass through it and count for nothing else."""
    contrast = clip.batch_contrast

    def faulty(image_GE: Tensor, *rest: Any, **more: Any) -> Tensor:
        return contrast(image_GE, *rest, **more) + 0 * fault(image_GE).float().sum()

    monkeypatch.setattr(clip, "batch_contrast", faulty)


def rehearse_small(precision: str = "bf16") -> None:
    """A step of CLIP's small twin. NotOnDevice: the rehearsal is red."""
    run = real_run("clip", precision, quick=True)
    with stage(run, pairs=PAIRS) as fake, naming_lines():
        Rehearsal(run, fake, pairs=PAIRS).step()
        check(fake.waits.found)


def test_without_a_fault_it_is_green() -> None:
    rehearse_small()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named_by_its_line(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, fault)
    with pytest.raises(NotOnDevice, match=FAULTS[fault]) as red:
        rehearse_small()
    assert str(red.value).startswith(place_of(fault)), red.value


@pytest.mark.parametrize(
    ("pinned", "non_blocking", "found"),
    [(True, True, 0), (True, False, 1), (False, True, 1), (False, False, 1)],
)
def test_only_a_copy_from_pinned_memory_that_does_not_block_is_free(pinned: bool, non_blocking: bool, found: int) -> None:
    with stage(real_run("clip", quick=True), pairs=PAIRS) as fake:
        host = torch.ones(4, 2)
        host = host.pin_memory() if pinned else host
        sent = host[1:].to(fake.device, non_blocking=non_blocking)
        sent.copy_(host[:3], non_blocking=non_blocking)
        back = torch.empty(3, 2, pin_memory=pinned)
        back.copy_(sent, non_blocking=non_blocking)
        assert len(fake.waits.found) == 3 * found


def test_a_number_is_filled_in_but_not_copied() -> None:
    with stage(real_run("clip", quick=True), pairs=PAIRS) as fake:
        there = torch.zeros(4, device=fake.device)
        there[there > 0] = 1.0
        there[1:] = 2.0
        there.masked_fill_(there > 1, 0.5)
        assert not fake.waits.found
        there[torch.zeros(1, dtype=torch.int64, device=fake.device)] = 1.0
        there[0] = 3.0
        assert len(fake.waits.found) == 2

"""An operation gives on fake tensors at the second time what it gave at the first, made by us and not by torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tbps.planning.fake_device import FakeDevice
from tbps.planning.tally import Tally


def forgetful(device: torch.device) -> FakeDevice:
    """It remembers nothing of other tests."""
    fake = FakeDevice(device, guess=torch.zeros, tally=Tally())
    fake.remembered = {}
    return fake


@pytest.fixture
def fake() -> FakeDevice:
    return forgetful(torch.device("cuda", 0))


def told(tensor: Tensor) -> tuple[object, ...]:
    """All that is known of a fake tensor."""
    layout = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.untyped_storage().nbytes())
    return *layout, tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_inference()


def both_times(fake: FakeDevice, operation: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What is given, and what the operation gives of it at the first and at the second time."""
    with fake.active():
        given = torch.zeros(4, 6, device=fake.device)
        first = operation(given)
        fake.fake_mode.dispatch = None  # type: ignore[assignment] # whoever asks torch again fails
        second = operation(given)
        del fake.fake_mode.dispatch
    return given, first, second


@pytest.mark.parametrize(
    "operation",
    [
        lambda a_BD: a_BD + 1,
        lambda a_BD: a_BD.t() @ a_BD,
        lambda a_BD: a_BD > 0.5,
        lambda a_BD: a_BD.double().sum(1, keepdim=True),
        lambda a_BD: torch.cat([a_BD, a_BD.bfloat16()], 1),
        lambda a_BD: a_BD.split(2)[1],
        lambda a_BD: torch.max(a_BD, dim=1)[1],
        lambda a_BD: torch.empty_like(a_BD.t()),
        lambda a_BD: torch.zeros(3, device=a_BD.device),
    ],
)
def test_the_second_time_is_like_the_first(fake: FakeDevice, operation: Callable[[Tensor], Tensor]) -> None:
    _, first, second = both_times(fake, operation)
    assert first is not second and told(first) == told(second) and vars(first) == vars(second)
    assert torch._C._dispatch_key_set(first) == torch._C._dispatch_key_set(second)


def test_a_view_shares_memory_and_an_operation_in_place_gives_its_own_argument(fake: FakeDevice) -> None:
    given, first, second = both_times(fake, lambda a_BD: a_BD[1:, ::2])
    places = [tensor.untyped_storage()._cdata for tensor in (given, first, second)]
    assert len(set(places)) == 1 and told(first) == told(second)
    given, first, second = both_times(fake, lambda a_BD: a_BD.mul_(2))
    assert given is first is second


def test_arguments_that_are_equal_and_not_alike_are_told_apart(fake: FakeDevice) -> None:
    with fake.active():
        given = torch.zeros(4, dtype=torch.int64, device=fake.device)
        assert [(given + one).dtype for one in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]
        with torch.inference_mode():
            assert (given + 1).is_inference()


def test_flops_and_bytes_are_counted_at_both_times(fake: FakeDevice) -> None:
    with fake.active():
        given = torch.zeros(4, 4, device=fake.device)
        counted = []
        for _ in range(2):
            fake.tally.start()
            kept = given @ given
            counted.append((dict(fake.tally.flops), fake.tally.passing_peak, fake.operations))
            del kept
            fake.operations = 0
        assert counted[0][:2] == counted[1][:2] == ({"": 128}, 128) and counted[1][2] == 1


def test_what_changes_its_arguments_shape_or_reads_is_asked_each_time(fake: FakeDevice) -> None:
    with fake.active():
        for _ in range(2):
            given = torch.zeros(2, 3, device=fake.device)
            given.t_()
            assert given.shape == (3, 2) and not given.sum().item()
        assert len(fake.waits.found) == 2


def test_on_the_host_real_tensors_beside_fake_ones_are_told_apart_by_what_is_known_of_them() -> None:
    fake = forgetful(torch.device("cpu"))
    weights = [torch.ones(3, 5), torch.ones(3, 5), torch.ones(3, 6), torch.ones(5, 3).t(), torch.ones(3, 5).double()]
    given = fake.to_device(torch.zeros(4, 3))
    with fake.active():
        shapes = [(given @ weight).shape for weight in weights[:4]]
        held = len(fake.remembered)
        assert shapes == [(4, 5), (4, 5), (4, 6), (4, 5)] and held == 3
        assert (given[:, 1:] * weights[4][1, :2]).dtype == torch.float64 != (given[:, 1:] * weights[0][1, :2]).dtype
        assert [(given + torch.tensor(one)).dtype for one in (1, 1.0)] == [torch.float32, torch.float32]
        weights[0].mul_(2)
        assert weights[0][0, 0] == 2 and (weights[0] @ weights[1].t()).sum() == 90, "what is real is computed"

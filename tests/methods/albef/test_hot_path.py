"""A training step never asks the device for a number: the one wait of a step is an event, not an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_methods import CONFIGS, MARS, Config, build, make_step, on_gpu, total_loss, with_dropout, with_fixed_choices
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tbps.methods.albef import rasa_step

# Operators whose result, or whose result's shape, is known on the host only after the device has finished.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "equal",
    "is_nonzero",
    "bincount",
}


class CountedWaits(TorchDispatchMode):
    """Collects the names of operators that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.calls += 1
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in WAITING:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_step_waits_for_nothing(config: Config) -> None:
    method = build(with_dropout(config, 0.1))
    batch, draws = make_step(with_dropout(config, 0.1))
    with CountedWaits() as counted:
        total_loss(method, method(batch, draws)[0]).backward()
        method.after_step()
    assert counted.calls > 500
    assert counted.names == []


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("_local_scalar_dense", lambda x: x.sum().item()),
        ("_local_scalar_dense", lambda x: 1 if x.sum() > 0 else 0),
        ("nonzero", lambda x: x.nonzero()),
        ("index", lambda x: x[x > 0]),
        ("index_put_", lambda x: x.__setitem__(x > 0, 1.0)),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("repeat_interleave", lambda x: x.repeat_interleave(torch.tensor([1, 2, 3]))),
    ],
)
def test_a_wait_is_seen(name: str, action: Any) -> None:
    with CountedWaits() as counted:
        action(torch.tensor([1.0, -1.0, 2.0]))
    assert name in counted.names


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_gpu_step_never_blocks(config: Config) -> None:
    method = build(with_dropout(config, 0.1)).cuda()
    batch, draws = make_step(with_dropout(config, 0.1))
    batch = on_gpu(batch)
    for debug in ("default", "error"):  # the first step fills caches and may block
        torch.cuda.set_sync_debug_mode(debug)
        try:
            total_loss(method, method(batch, draws)[0]).backward()
            method.after_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_agree() -> None:
    batch, draws = make_step(MARS)
    draws = with_fixed_choices(batch, draws)
    on_cpu, _ = build(MARS)(batch, draws)
    found, _ = build(MARS).cuda()(on_gpu(batch), draws)
    for name, value in on_cpu.items():
        assert found[name].item() == pytest.approx(value.item(), rel=5e-3, abs=1e-3), name


class LargestSoftmax(TorchDispatchMode):
    """Most rows of a table of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "_softmax" and out.dim() == 2:
            self.rows = max(self.rows, len(out))
        return out


def test_words_are_drawn_for_some_tokens_at_a_time_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, draws = make_step(MARS)
    found, rows = [], []
    for at_once in (1000, 7):
        monkeypatch.setattr(rasa_step, "DRAWN_ROWS", at_once)
        method = build(MARS)
        step = rasa_step.RasaStep(method, method.tasks, batch, draws)
        _, momentum_token_BPD = method.past.features(batch, step.pack())
        with LargestSoftmax() as largest:
            found.append(step.word_task(step.mlm_mask(), momentum_token_BPD).corrupted.token_id_N)
        rows.append(largest.rows)
    assert torch.equal(*found)
    assert rows == [len(found[0]), 7]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_modules_are_called_alike_whatever_the_captions(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeRO-3 gathers a module's weights at each of its calls, on all processes, whose captions have other lengths."""
    monkeypatch.setattr(rasa_step, "DRAWN_ROWS", 7)
    assert called_in_a_step(config, longest=12) == called_in_a_step(config, longest=5)


def called_in_a_step(config: Config, *, longest: int) -> list[str]:
    """Names of the modules that hold parameters of their own, one for each call, in order."""
    method = build(with_dropout(config, 0.1))
    batch, draws = make_step(with_dropout(config, 0.1), longest=longest)
    called: list[str] = []

    def tell(name: str) -> Callable[..., None]:
        return lambda *_: called.append(name)

    for name, module in method.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(tell(name))
    total_loss(method, method(batch, draws)[0]).backward()
    assert called
    return called

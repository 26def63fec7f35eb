"""`loop.compile`: the same losses, gradients and names; a bounded number of graphs; without it where it cannot work.

Traced by dynamo and run by AOTAutograd without a code generator (backend "aot_eager"): what a graph computes is what it
computes on a GPU, and no compiler is waited for.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from small_method import small_parts, small_run
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

import real_step  # noqa: E402
from real_methods import build, run_of  # noqa: E402
from real_step import RealStep  # noqa: E402

from tbps.training import compilation  # noqa: E402
from tbps.training.compilation import compile_method, num_failed, num_graphs, put_back, without_graphs  # noqa: E402
from tbps.training.loop import train  # noqa: E402

CPU = torch.device("cpu")
MOST_GRAPHS = {"irra": 6, "mars": 8, "aptm": 8, "bamg": 10, "laip": 8}
"""Of `tiny`, whatever the lengths of captions: of each part one with and one without gradients, for all tokens and for the
wanted rows alone."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    AcceleratorState._reset_state(reset_partial_state=True)


def steps_of(recipe: str, *, checkpointing: bool) -> RealStep:
    """Whole steps of `tiny` of a recipe, with dropout, on 8 pairs each. A stack is one graph: of each kind, one layer."""
    run = run_of(recipe, quick=True, pairs=8)
    if hasattr(run.method, "fusion_layers"):
        run = replace(run, method=replace(run.method, fusion_layers=1))
    if hasattr(run.method, "bert"):
        run = replace(run, method=replace(run.method, bert=replace(run.method.bert, dropout=0.1)))
    method = build(run)
    if checkpointing:
        method.set_activation_checkpointing(True)
    return RealStep(run, method, CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "checkpointing", "num_steps"),
    [
        ("irra", False, 20),
        ("mars", False, 3),
        ("aptm", False, 3),
        ("bamg", False, 3),
        ("laip", False, 3),
        ("irra", True, 3),
    ],
)
def test_losses_and_gradients_are_the_same_and_graphs_few(
    recipe: str, checkpointing: bool, num_steps: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(real_step, "BATCHES", num_steps)
    plain, compiled = (steps_of(recipe, checkpointing=checkpointing) for _ in range(2))
    names = list(compiled.method.state_dict())
    with caplog.at_level(logging.INFO):
        told = compile_method(compiled.method, CPU)
        made = num_graphs()
        assert told is not None and "compiled when first called: " in caplog.text
        for step in range(num_steps):
            plain.step(), compiled.step()
            assert compiled.losses == pytest.approx(plain.losses, rel=1e-6, abs=1e-6), f"step {step + 1}"
            if step < 2:
                _assert_same_gradients(compiled.method, plain.method)
            told.tell(step + 1)
    assert list(compiled.method.state_dict()) == names and num_failed() == 0
    assert 2 <= num_graphs() - made <= MOST_GRAPHS[recipe]
    said = re.findall(r"step (\d+): \d+ graphs compiled, (\d+) in all, in (\d+\.\d) s", caplog.text)
    assert said[-1][1] == str(num_graphs()) and float(said[-1][2]) > 0
    assert all(step in ("1", "2", "3") for step, _, _ in said), f"graphs for later lengths: {said}"


def _assert_same_gradients(method: nn.Module, expected: nn.Module) -> None:
    others = dict(expected.named_parameters())
    for name, parameter in method.named_parameters():
        other = others[name].grad
        assert (parameter.grad is None) == (other is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, other, rtol=1e-5, atol=1e-6, msg=name)


def test_evaluation_makes_no_graphs_and_parts_can_be_put_back() -> None:
    steps = steps_of("clip", checkpointing=False)
    told = compile_method(steps.method, CPU)
    made = num_graphs()
    with without_graphs(told):
        steps.step()
    put_back(steps.method)
    steps.step()
    assert num_graphs() == made


def test_a_part_that_the_compiler_stumbles_over_runs_as_it_is_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        if len(graph.graph.nodes) > 20:  # not over the trial
            raise AssertionError("of the compiler's own")
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", stumble)
    steps, plain = (steps_of("clip", checkpointing=False) for _ in range(2))
    told = compile_method(steps.method, CPU)
    assert told is not None
    steps.step()
    plain.step()
    assert steps.losses == pytest.approx(plain.losses, rel=1e-6)
    told.tell(1)
    told.tell(2)
    said = [message for message in caplog.messages if "could not be compiled" in message]
    assert len(said) == 1 and re.fullmatch(r"step 1: \d+ functions could not be compiled and run as they are; .*", said[0])


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (
            "no such one",
            "loop.compile is left out, training goes on without it: torch.compile fails on cpu with InvalidBackend",
        ),
        ("aot_eager", "loop.compile has no effect: this method has none of the layers that are compiled"),
    ],
)
def test_where_nothing_can_be_compiled_training_goes_on_and_says_so(
    backend: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", backend)
    run = small_run(tmp_path, steps=2)
    folder = train(replace(run, loop=replace(run.loop, compile=True)), small_parts(run))
    assert said in caplog.text and len(folder.metrics.read_text().splitlines()) >= 2

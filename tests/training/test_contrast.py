"""A loss of the whole batch is the same however the batch is shared out: processes, micro-batches, both, ZeRO."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch
import whole_batch_method
from small_method import small_parts
from small_process import log_of, metrics
from whole_batch_method import WholeBatchMethod, final_weights, train_whole_batch, whole_batch_run

from tbps.config.data import Pixels
from tbps.data.batch import Batch
from tbps.data.contrast_scope import ContrastScope
from tbps.data.views import make_views
from tbps.runs.checkpoint import read_tensors
from tbps.training.contrast import check_contrast, made_scope, make_rows
from tbps.training.seeds import seed_micro_step

SCRIPT = Path(whole_batch_method.__file__)


def _launch(runs: Path, *, processes: int, stage: int = 0, **changes: Any) -> None:
    runs.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)} if stage else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **zero}
    words = [*torchrun, str(SCRIPT), str(runs), json.dumps(changes)]
    done = ready_python.run(words, folder=runs, variables=environment, timeout_s=240)
    assert done.returncode == 0, log_of(runs) + done.stderr


def _assert_same(found: Path, expected: Path) -> None:
    ours, theirs = metrics(found), metrics(expected)
    assert [line["step"] for line in ours[:20]] == list(range(1, 21))
    for line, other in zip(ours, theirs, strict=True):
        assert line == pytest.approx(other, rel=1e-5), f"step {line['step']}"
    weights, others = read_tensors(final_weights(found)), read_tensors(final_weights(expected))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-5, atol=1e-6)  # of the 6e-2 that a weight moves


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("alone")
    train_whole_batch(runs)
    numbers = metrics(runs)
    assert numbers[19]["loss"] < numbers[0]["loss"] - 0.1
    return runs


def test_four_micro_batches(alone: Path, tmp_path: Path) -> None:
    train_whole_batch(tmp_path, micro_batch_pairs=4)
    _assert_same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("processes", "micro_batch_pairs"), [(4, 0), (2, 4)], ids=["four", "two-by-two"])
def test_processes(alone: Path, tmp_path: Path, processes: int, micro_batch_pairs: int, stage: int) -> None:
    _launch(tmp_path / "runs", processes=processes, stage=stage, micro_batch_pairs=micro_batch_pairs)
    _assert_same(tmp_path / "runs", alone)


def _batches(*, micro_batch_pairs: int) -> list[Batch]:
    """Those of the first step."""
    run = whole_batch_run(Path("runs"), micro_batch_pairs=micro_batch_pairs, workers=0)
    loader = small_parts(run).make_batches(start_step=0, num_steps=1, rank=0, world_size=1)
    hosts, made = list(loader), []
    for micro, host in enumerate(hosts):
        first = micro * len(host.keys) // run.data.group_pairs
        made.append((host, first))
    return [make_views(host, torch.device("cpu"), pixels=Pixels(), group_pairs=4, first_group=first) for host, first in made]


def test_gradients_are_those_of_the_plain_loss_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    method = WholeBatchMethod()

    def gradients(batch: Batch) -> list[torch.Tensor]:
        seed_micro_step(seed=0, step=0, first_group=0)
        losses, _ = method(batch, None)  # type: ignore[arg-type]
        return list(torch.autograd.grad(sum(losses.values()), list(method.parameters())))

    (whole,) = _batches(micro_batch_pairs=0)
    parts = _batches(micro_batch_pairs=4)

    def make(batch: Batch) -> Any:
        seed_micro_step(seed=0, step=0, first_group=0)
        return batch, None

    rows = make_rows([lambda batch=batch: make(batch) for batch in parts], method.contrast_rows)
    for batch in parts:
        batch.scope = made_scope(batch, rows, shares=4)
    shared = [torch.stack(each).mean(0) for each in zip(*map(gradients, parts), strict=True)]
    for ours, theirs in zip(shared, gradients(whole), strict=True):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


def test_what_a_method_may_not_ask_for() -> None:
    scope = ContrastScope(torch.arange(4))
    assert scope.whole({"a": torch.ones(4, 2)})["a"].shape == (4, 2) and scope.identity_G.tolist() == [0, 1, 2, 3]
    sentence = "scope.whole was given 3 rows of 'a', expected one for each of the 4 pairs of the batch"
    with pytest.raises(ValueError, match=sentence):
        scope.whole({"a": torch.ones(3)})
    part = ContrastScope(torch.arange(4), shares=2, made={"a": torch.ones(8), "b": torch.ones(8)})
    with pytest.raises(ValueError, match=r"was asked for 'c', expected rows that contrast_rows returns \('a', 'b'\)"):
        part.whole({"c": torch.ones(4)})


def test_a_method_without_rows_is_told_before_it_trains() -> None:
    class Plain:
        pass

    check_contrast(Plain(), "batch", micro_batches=1)
    check_contrast(Plain(), "group", micro_batches=4)
    check_contrast(WholeBatchMethod(), "batch", micro_batches=4)
    sentence = (
        "Plain contrasts the whole batch and has no contrast_rows(batch, draws), which 4 micro-batches on each process"
        " need; add it, or set --data.micro-batch-pairs 0"
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_contrast(Plain(), "batch", micro_batches=4)

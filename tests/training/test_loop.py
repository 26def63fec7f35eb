from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_method import NUM_PAIRS, SmallMethod, small_parts, small_run
from small_process import final_state, metrics
from torch import nn

from tbps.config.data import Pixels
from tbps.config.run import Run
from tbps.config.start import Start
from tbps.data.batch import HostBatch
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint, best_step, selection_value
from tbps.training.loop import train

LARGE_EPS = 1e-2
"""Adam divides by the size of a gradient: with the usual eps, the last bit of one near 0 becomes a visible step."""


def test_a_run_trains_validates_selects_and_tests(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    folder = train(run, small_parts(run))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "split" not in line] == list(range(1, 13))
    validated = {line["step"]: line for line in lines if line.get("split") == "val"}
    assert list(validated) == [4, 8, 12]
    best = max(validated, key=lambda step: selection_value(validated[step]))
    assert best == best_step(folder) == 8
    tested = [line for line in lines if line.get("split") == "test"]
    assert len(tested) == 1 and tested[0]["weights_of_step"] == best
    assert tested[0]["rank_1"] == validated[best]["rank_1"]
    assert checkpoint.steps_in(folder.checkpoints) == [8, 9, 12]
    assert best_checkpoint(folder.path).name == "step-00000008"
    first = lines[0]
    assert set(first) == {"step", "epoch", "loss/itc", "loss/prd", "loss", "grad_norm", "replaced", "lr", "lr/prd_head"}
    assert first["epoch"] == 8 / NUM_PAIRS
    assert first["loss"] == pytest.approx(first["loss/itc"] + 0.5 * first["loss/prd"], rel=1e-6)


def test_the_log_tells_how_long_each_step_waited_and_what_the_run_costs(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    parts = small_parts(run)

    class Late:
        """Batches, of which the third comes late."""

        def __init__(self, **words: Any) -> None:
            self.batches = parts.make_batches(**words)
            self.micro_batches_per_step = self.batches.micro_batches_per_step

        def __iter__(self) -> Iterator[HostBatch]:
            for number, batch in enumerate(self.batches):
                if number == 2:
                    time.sleep(0.5)
                yield batch

    folder = train(run, replace(parts, make_batches=Late, mfu=lambda speed: speed / 1e6))  # type: ignore[arg-type]
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    waited_s = [line["data_wait_s"] for line in lines if "split" not in line]
    assert len(waited_s) == 12 and waited_s[2] >= 0.5 and sorted(waited_s)[6] < 0.25
    of_progress = [line for line in lines if "pairs_per_s" in line]
    assert [line["step"] for line in of_progress] == [2, 4, 6, 8, 10, 12]
    for line in of_progress:
        assert line["mfu"] == pytest.approx(line["pairs_per_s"] / 1e6, abs=1e-4)
        assert 0.1 < line["memory_gib"] < 10
    late = of_progress[1]  # steps 3 and 4, of which the first waited: its share of the time that their pairs took
    took_s = 2 * run.data.batch_pairs / late["pairs_per_s"]
    assert 0.1 < late["data_wait_share"] == pytest.approx((waited_s[2] + waited_s[3]) / took_s, abs=0.02)


def test_every_step_is_what_a_plain_loop_does(tmp_path: Path) -> None:
    run = small_run(tmp_path, clip_norm=0.5)
    train(run, small_parts(run, dropout=0.0))
    torch.manual_seed(run.loop.seed)
    method = SmallMethod(dropout=0.0)
    method.before_first_step()
    heads = {id(parameter) for parameter in method.prd_head.parameters()}
    optimiser = torch.optim.AdamW(
        [
            {"params": [parameter], "head": id(parameter) in heads, "weight_decay": 0.0 if parameter.ndim == 1 else 0.02}
            for parameter in method.parameters()
            if parameter.requires_grad
        ]
    )
    from tbps.data.views import make_views

    batches = small_parts(run).make_batches(start_step=0, num_steps=12, rank=0, world_size=1)
    logged = [line for line in metrics(tmp_path) if "split" not in line]
    for host, line in zip(batches, logged, strict=True):
        losses, numbers = method(make_views(host, torch.device("cpu"), pixels=Pixels(), group_pairs=4), host.draws)
        optimiser.zero_grad()
        total = losses["itc"] + 0.5 * losses["prd"]
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), 0.5)
        assert line["loss"] == pytest.approx(total.item(), rel=1e-4)
        assert line["replaced"] == pytest.approx(numbers["replaced"].item()) and "loss/replaced" not in line
        assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        for group in optimiser.param_groups:
            group["lr"] = line["lr/prd_head"] if group["head"] else line["lr"]
        optimiser.step()
        method.after_step()
    saved = checkpoint.read_tensors(tmp_path / "small/test/checkpoints/step-00000012/model.safetensors")
    for name, tensor in method.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    parts = small_parts(run)
    train(run, parts)
    before = metrics(tmp_path)

    def never(method: nn.Module, step: int) -> dict[str, float]:
        raise AssertionError("a finished run was evaluated again")

    train(run, replace(parts, validate=never, test=never))
    assert metrics(tmp_path) == before


def test_a_crash_in_the_final_test_repeats_only_the_test(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    parts = small_parts(run)

    def crash(method: nn.Module, step: int) -> dict[str, float]:
        raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError, match="the machine went away"):
        train(run, replace(parts, test=crash))

    def never(method: nn.Module, step: int) -> dict[str, float]:
        raise AssertionError("validated again")

    train(run, replace(parts, validate=never))
    undisturbed = small_run(tmp_path / "undisturbed")
    train(undisturbed, parts)
    assert metrics(tmp_path) == metrics(tmp_path / "undisturbed")


def test_the_last_checkpoint_is_tested_where_asked(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    run = replace(run, evaluation=replace(run.evaluation, selection="last"))
    train(run, replace(small_parts(run), validate=None))
    assert [(line["split"], line["weights_of_step"]) for line in metrics(tmp_path) if "split" in line] == [("test", 12)]
    assert best_checkpoint(tmp_path / "small" / "test").name == "step-00000012"


def test_no_test_where_none_is_wanted(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    run = replace(run, evaluation=replace(run.evaluation, test=False, every_epochs=0))
    train(run, small_parts(run))
    assert [(line["split"], line["step"]) for line in metrics(tmp_path) if "split" in line] == [("val", 12)]


def test_a_broken_best_checkpoint_is_not_tested(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    train(run, small_parts(run))
    folder = RunFolder.of(run)
    (folder.evaluations / "test-00000012.json").unlink()
    (folder.checkpoints / "step-00000008" / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"step-00000008 cannot be tested: model.safetensors has 0 bytes, expected \d+; copy"
    ):
        train(run, small_parts(run))
    with pytest.raises(ValueError, match=r"the best checkpoint .*step-00000008 cannot be used: model.safetensors has 0"):
        best_checkpoint(folder.path)


def test_a_folder_without_checkpoints_has_no_best(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    folder = train(run, small_parts(run))
    for file in (*folder.evaluations.iterdir(), *folder.checkpoints.glob("*/manifest.json")):
        file.unlink()
    with pytest.raises(ValueError, match="holds no whole checkpoint; expected the folder of a run that has saved one"):
        best_checkpoint(folder.path)


def _fall_back(run: Run, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO):
        train(run, small_parts(run))
    return caplog.text


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = small_run(tmp_path)
    train(run, small_parts(run))
    before, log = final_state(tmp_path, 12), metrics(tmp_path)
    model = tmp_path / "small/test/checkpoints/step-00000012/model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(bytes(data))
    text = _fall_back(run, caplog)
    assert "step-00000012 is broken and skipped: model.safetensors has another sha256" in text
    assert "step-00000009 (9 steps done)" in text
    assert final_state(tmp_path, 12) == before and metrics(tmp_path) == log


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    for micro in (0, 4):
        run = small_run(tmp_path / str(micro), micro_batch_pairs=micro, lr=1e-3, eps=LARGE_EPS)
        train(run, small_parts(run, dropout=0.1))
    whole, parts = (
        checkpoint.read_tensors(tmp_path / f"{micro}/small/test/checkpoints/step-00000012/model.safetensors")
        for micro in (0, 4)
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-5, atol=1e-6)  # of the 1e-2 that a weight moves
    first, second = ([line for line in metrics(tmp_path / str(micro)) if "split" not in line] for micro in (0, 4))
    for ours, theirs in zip(second, first, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    with pytest.raises(ValueError, match=r"loss itc is nan in step 8 \(pairs pair-\d+, ") as caught:
        train(run, small_parts(run, nan_step=7))
    assert " and 4 more, all in " in str(caught.value)
    assert "this update was not applied and the last checkpoint is as it was" in str(caught.value)
    failed = json.loads((tmp_path / "small/test/failed_step.json").read_text())
    assert failed["step"] == 8 and len(failed["pairs"]) == 8 and failed["numbers"]["loss/itc"] == "nan"
    assert checkpoint.newest(tmp_path / "small/test/checkpoints").name == "step-00000006"  # type: ignore[union-attr]
    # the data are mended: the run goes on as if nothing had happened
    train(run, small_parts(run))
    undisturbed = small_run(tmp_path / "undisturbed")
    train(undisturbed, small_parts(undisturbed))
    assert final_state(tmp_path, 12) == final_state(tmp_path / "undisturbed", 12)


def test_another_config_is_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    train(run, small_parts(run))
    changed = small_run(tmp_path, batch_pairs=4)
    with pytest.raises(ValueError, match=r"was started with another config \(data.batch_pairs: 8 -> 4"):
        train(changed, small_parts(changed))


def test_tensorboard_is_written_beside_the_log(tmp_path: Path) -> None:
    run = small_run(tmp_path, steps=2)
    folder = train(replace(run, loop=replace(run.loop, tensorboard=True)), small_parts(run))
    assert list((folder.path / "tensorboard").glob("events.out.*"))


def test_a_run_starts_from_the_best_weights_of_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = small_run(tmp_path / "first")
    folder = train(first, small_parts(first))
    second = replace(small_run(tmp_path / "second", steps=1), start=Start(weights=str(folder.path)))
    with caplog.at_level(logging.INFO):
        train(second, small_parts(second))
    assert f"starting from {folder.path / 'checkpoints' / 'step-00000008' / 'model.safetensors'}: " in caplog.text
    ours, theirs = (
        checkpoint.read_tensors(path / "small/test/checkpoints" / f"step-0000000{step}" / "model.safetensors")
        for path, step in ((tmp_path / "second", 1), (tmp_path / "first", 8))
    )
    assert not torch.equal(ours["queue.caption_KE"], theirs["queue.caption_KE"]), "the queue belongs to its data"


def test_the_second_stage_starts_with_a_fresh_optimiser_and_says_so_to_the_method(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twelve steps of two stages, five and seven: the optimiser's count of steps is that of the second alone."""
    run = small_run(tmp_path, second_stage_epoch=0.9)
    seen: list[bool] = []

    class Watched(SmallMethod):
        def forward(self, batch: Any, draws: Any) -> Any:
            seen.append(batch.last_stage)
            return super().forward(batch, draws)

    with caplog.at_level(logging.INFO):
        folder = train(run, replace(small_parts(run), build=Watched))
    assert seen == [False] * 5 + [True] * 7
    assert "the second stage begins after step 5" in caplog.text
    rates = [line["lr"] for line in metrics(tmp_path) if "split" not in line]
    assert rates[0] == rates[5] and rates[1] == rates[6] and rates[2] > rates[4]
    optimiser = checkpoint.read_tensors(folder.checkpoints / "step-00000012" / checkpoint.OPTIMISER_FILE)
    assert {float(tensor) for name, tensor in optimiser.items() if name.startswith("step/")} == {7.0}


def _with(losses: dict[str, Any], numbers: dict[str, Any]) -> Callable[[], SmallMethod]:
    """The small method, with more that it returns."""

    class Telling(SmallMethod):
        def forward(self, batch: Any, draws: Any) -> Any:
            own, told = super().forward(batch, draws)
            return {**own, **losses}, {**told, **numbers}

    return Telling


def test_numbers_are_logged_and_never_weighed_and_one_that_is_not_finite_stops_nothing(tmp_path: Path) -> None:
    plain, run = small_run(tmp_path / "plain"), small_run(tmp_path / "told", micro_batch_pairs=4)
    train(plain, small_parts(plain))
    numbers = {"lost": torch.tensor(float("nan")), "whole": torch.tensor(3)}
    train(run, replace(small_parts(run), build=_with({}, numbers)))
    for expected, line in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "told"), strict=True):
        if "split" in line:
            continue
        assert math.isnan(line["lost"]) and line["whole"] == 3
        assert line["replaced"] == pytest.approx(expected["replaced"])
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "numbers", "message"),
    [
        ({}, {"epoch": torch.ones(())}, "returned a number 'epoch', which is a name of the log's own"),
        ({"extra": torch.ones(())}, {}, r"returned a loss 'extra' that has no weight \(weights: itc, prd\)"),
    ],
)
def test_what_cannot_be_logged_or_weighed_is_named(
    tmp_path: Path, losses: dict[str, Any], numbers: dict[str, Any], message: str
) -> None:
    run = small_run(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(run, replace(small_parts(run), build=_with(losses, numbers)))


@pytest.mark.parametrize("stop", [5, 6, 9])
def test_a_run_stopped_at_the_boundary_of_its_stages_or_after_it_ends_the_same(tmp_path: Path, stop: int) -> None:
    run = small_run(tmp_path / "whole", second_stage_epoch=0.9, save_steps=1)
    run = replace(run, loop=replace(run.loop, keep_checkpoints=12))
    train(run, small_parts(run))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for step in range(stop + 1, 13):
        shutil.rmtree(tmp_path / f"parts/small/test/checkpoints/step-{step:08d}")
    run = replace(run, runs=str(tmp_path / "parts"))
    train(run, small_parts(run))
    assert final_state(tmp_path / "parts", 12) == final_state(tmp_path / "whole", 12)

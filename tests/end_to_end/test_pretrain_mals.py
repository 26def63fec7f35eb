"""Pretraining on MALS, a method each: on two processes, and as the start of the method's fine-tuning."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from small_world import LAUNCH_TWO, World, call, metrics, run_recipe

from recipes import pretrain_mals
from tbps.runs.checkpoint import read_tensors

METHODS = ("mars", "rasa", "albef", "aptm", "irra")
STEPS = 2
STANDS_STILL = ("--optim.lr", "1e-12", "--schedule.min-lr", "0", "--schedule.warmup-lr", "0")


def _small(method: str) -> str:
    return "tiny" if method == "mars" else f"tiny-{method}"


def _weights(run_folder: Path, step: int) -> dict[str, object]:
    return dict(read_tensors(run_folder / f"checkpoints/step-{step:08d}/model.safetensors"))


@pytest.mark.parametrize("variant", pretrain_mals.VARIANTS)
def test_the_run_is_called_as_its_variant(variant: str) -> None:
    run = pretrain_mals.VARIANTS[variant]()
    assert (run.recipe, run.name, run.data.benchmark) == ("pretrain_mals", variant, "mals")
    assert (run.evaluation.test, run.evaluation.every_epochs, run.evaluation.selection) == (False, 0, "last")
    assert not run.needs.identities and not run.data.weak_positive_probability


def test_every_method_has_both_sizes() -> None:
    assert set(pretrain_mals.VARIANTS) == {*METHODS, *map(_small, METHODS)}


@pytest.mark.parametrize(("variant", "setting"), [("aptm", "--method.swin.depths"), ("irra", "--method.towers.features")])
def test_help_lists_the_methods_settings(variant: str, setting: str) -> None:
    done = call(sys.executable, "recipes/pretrain_mals.py", variant, "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(f"usage: pretrain_mals.py {variant} ") and f"\n  {setting} " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_pretrain_what_fine_tuning_starts_from(
    method: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    small = _small(method)
    words = world.overrides(tmp_path, recipe=method, max_steps=STEPS)
    words += ["--data.root", str(world.shards), "--data.workers", "1", "--evaluation.every-epochs", "0"]
    words += ["--loop.log-steps", "1", *(("--method.bert.dropout", "0.1") if method != "irra" else ())]
    done = call(*LAUNCH_TWO, "recipes/pretrain_mals.py", small, *words)
    assert done.returncode == 0, done.stderr
    pretrained = tmp_path / "pretrain_mals" / small
    assert [line["step"] for line in metrics(pretrained)] == [1, 2]
    tuned = [*world.overrides(tmp_path, recipe=method, max_steps=1), *STANDS_STILL, "--evaluation.test", "False"]
    assert run_recipe(method, "tiny", *tuned, "--start.weights", str(pretrained)) == 0
    assert f"starting from {pretrained}" in caplog.text
    before, after = _weights(pretrained, STEPS), _weights(tmp_path / method / "tiny", 1)
    # What follows the encoder by itself, or belongs to the data, is not taken over unchanged.
    trained = [name for name in after if not name.startswith(("momentum_encoder.", "queue.", "classifier."))]
    assert len(trained) > 50 and set(trained) <= set(before)
    for name in trained:
        assert (before[name] - after[name]).abs().max() < 1e-6, name  # type: ignore[operator, attr-defined]

"""Recipes on frozen encoders with low-rank adapters: trained, stopped, spread, evaluated, exported, merged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_process import finish, kill_group, start
from safetensors import safe_open
from small_world import LAUNCH_TWO, World, call, metrics, run_recipe

from tbps.methods.registry import build_method
from tbps.runs.checkpoint import newest, read_tensors
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint

TARGETS = "q,k,v,out"
LORA = ("--lora.targets", TARGETS, "--lora.rank", "2", "--lora.alpha", "4")


def _words(world: World, runs: Path, recipe: str, *, max_steps: int) -> list[str]:
    if recipe == "irra":
        given = [
            "--runs",
            str(runs),
            "--data.root",
            str(world.cuhk_pedes),
            "--data.workers",
            "1",
            "--loop.tensorboard",
            "False",
        ]
        return ["tiny", *given, "--schedule.max-steps", str(max_steps)]
    words = world.overrides(runs, recipe=recipe, max_steps=max_steps)
    return ["tiny", *words, "--data.workers", "1", "--method.bert.dropout", "0.1"]


@pytest.fixture(scope="module", params=["albef", "irra"])
def base(world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A recipe, and the weights of two of its steps."""
    recipe, folder = str(request.param), tmp_path_factory.mktemp("base")
    words = ["--evaluation.test", "False", "--evaluation.every-epochs", "0"]
    assert run_recipe(recipe, *_words(world, folder, recipe, max_steps=2), *words) == 0
    _tbps("convert", "--export", str(folder / recipe / "tiny"), str(folder / "base.safetensors"))
    return recipe, folder / "base.safetensors"


def _tbps(*words: str, status: int = 0) -> str:
    done = call(sys.executable, "-m", "tbps.command", *words)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def _adapted(world: World, runs: Path, base: tuple[str, Path], *changes: str) -> list[str]:
    return [*_words(world, runs, base[0], max_steps=4), "--start.weights", str(base[1]), *LORA, *changes]


@pytest.fixture(scope="module")
def trained(world: World, base: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapted run of four steps, tested and reported."""
    runs = tmp_path_factory.mktemp("adapted")
    assert finish(_adapted(world, runs, base), runs / "log", recipe=base[0]) == 0, (runs / "log").read_text()
    text = (runs / "log").read_text()
    assert re.search(r"adapters of rank 2 on q, k, v, out: [\d,]+ parameters are trained, [\d,]+ are\s+frozen; the", text), (
        text
    )
    return runs / base[0] / "tiny"


def _state(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder / "checkpoints")
    assert found is not None
    return read_tensors(found / "model.safetensors")


def test_a_checkpoint_holds_adapters_and_heads_that_all_have_moved(trained: Path, base: tuple[str, Path]) -> None:
    state, whole = _state(trained), read_tensors(base[1])
    adapters = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    assert adapters and not [name for name in state if "base_layer" in name or "encoder.norm" in name]
    assert all(float(tensor.norm()) > 0 for name, tensor in adapters.items() if ".lora_B." in name)
    heads = [name for name in state if ".lora_" not in name and not name.startswith(("momentum_encoder.", "queue."))]
    assert heads and all(name in whole for name in heads)
    assert any(not torch.equal(state[name], whole[name]) for name in heads)


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(
    world: World, base: tuple[str, Path], trained: Path, tmp_path: Path
) -> None:
    words, log = _adapted(world, tmp_path, base, "--loop.save-steps", "1"), tmp_path / "log"
    for step in (1, 2):
        process = start(words, log, recipe=base[0])
        while process.is_alive() and not list((tmp_path / base[0] / "tiny/checkpoints").glob(f"step-{step:08d}")):
            pass
        assert kill_group(process), log.read_text()
    assert finish(words, log, recipe=base[0]) == 0, log.read_text()
    ours, theirs = _state(tmp_path / base[0] / "tiny"), _state(trained)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert metrics(tmp_path / base[0] / "tiny") == metrics(trained)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_write_the_same_adapters(
    world: World, base: tuple[str, Path], trained: Path, tmp_path: Path, stage: int
) -> None:
    changes: dict[str, str] = {}
    if stage:
        changes = {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
            "DS_ACCELERATOR": "cpu",
        }
    done = call(*LAUNCH_TWO, f"recipes/{base[0]}.py", *_adapted(world, tmp_path, base), timeout_s=400, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = _state(tmp_path / base[0] / "tiny"), _state(trained)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if ".lora_" in name:
            torch.testing.assert_close(
                ours[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_merged_weights_embed_as_adapters_do_and_start_a_run(trained: Path, base: tuple[str, Path], tmp_path: Path) -> None:
    from tbps.convert.weights import load_weights
    from tbps.training.start import load_finished

    run = RunFolder(trained).read_run()
    out = tmp_path / "merged.safetensors"
    _tbps("convert", "--export", "--merge", str(trained), str(out))
    changes: dict[str, Any] = {"image_px": run.data.image_px}
    if run.needs.identities:
        changes["num_identities"] = run.data.num_identities
    adapted, merged = build_method(run.method, **changes).eval(), build_method(run.method, **changes).eval()
    load_finished(adapted, run, best_checkpoint(trained))
    load_weights(merged, out)
    image_BCHW = torch.randn(2, 3, *run.data.image_px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (method.embed_images(image_BCHW).feature_IE for method in (merged, adapted))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not [name for name in read_tensors(out) if ".lora_" in name or "base_layer" in name]


def test_it_is_scored_again_from_base_and_adapters(trained: Path) -> None:
    first = (trained / "results").glob("final-*.json")
    text = _tbps("evaluate", str(trained), "--split", "test")
    assert (list(first) and "rank_1" in text) or "rank-1" in text, text


def test_adapters_start_another_run_on_the_same_base_only(
    world: World, base: tuple[str, Path], trained: Path, tmp_path: Path
) -> None:
    alone, other = tmp_path / "adapters.safetensors", tmp_path / "merged.safetensors"
    assert "adapters and heads alone, for encoders with sha256" in _tbps("convert", "--export", str(trained), str(alone))
    _tbps("convert", "--export", "--merge", str(trained), str(other))
    with safe_open(alone, framework="pt") as opened:
        assert len(opened.metadata()["base_sha256"]) == 64
    words = _adapted(world, tmp_path / "runs", base, "--lora.adapters", str(alone), "--schedule.max-steps", "1")
    words += ["--evaluation.test", "False", "--evaluation.every-epochs", "0"]
    assert run_recipe(base[0], *words) == 0
    words[words.index("--start.weights") + 1] = str(other)
    done = subprocess.run(
        [sys.executable, f"recipes/{base[0]}.py", *words, "--name", "other"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "were trained on encoders with sha256" in done.stderr, done.stderr


def test_frozen_random_encoders_are_refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*_words(world, tmp_path, "albef", max_steps=1), *LORA]
    assert run_recipe("albef", *words) == 2
    assert "would stay random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--lora.rank", "0"), "lora.rank is 0, expected at least 1"),
        (("--lora.targets", "q,attn"), "lora.targets names 'attn', expected some of q, k, v, out, fc1, fc2"),
        (("--lora.targets", "", "--lora.adapters", "x"), "lora.adapters is x, and lora.targets is empty"),
        (("--lora.base", "bf16"), "lora.base is bf16, expected fp32 where loop.precision is fp32"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(
    world: World,
    base: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, ...],
    message: str,
) -> None:
    assert run_recipe(base[0], *_adapted(world, tmp_path, base, *change)) == 2
    assert message in capsys.readouterr().err

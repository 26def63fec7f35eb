"""Recipes on frozen encoders with low-rank adapters: trained, stopped, spread, evaluated, exported, merged."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from adapted_scores import assert_merged_scores_as_adapted
from recipe_process import finish, kill_group, start
from safetensors import safe_open
from safetensors.torch import save_file
from small_world import LAUNCH_TWO, World, call, metrics, run_recipe

from tbps.runs.checkpoint import newest, read_tensors

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
    return runs / base[0] / "tiny"


def _log(trained: Path) -> str:
    return (trained.parents[1] / "log").read_text()


def test_it_says_what_is_trained_and_what_that_costs(trained: Path, base: tuple[str, Path]) -> None:
    """By what a checkpoint holds, and the base: a trained parameter is what the optimiser keeps numbers of."""
    said = re.search(
        r"adapters of rank 2 on q, k, v, out: ([\d,]+) parameters are trained, ([\d,]+) are frozen; the adapters take"
        r" ([\d.]+) MB, the optimiser's state ([\d.]+) MB, the frozen parameters ([\d.]+) MB",
        _log(trained),
    )
    assert said is not None, _log(trained)
    state, found = _state(trained), newest(trained / "checkpoints")
    assert found is not None
    moments = {name: t for name, t in read_tensors(found / "optimiser.safetensors").items() if not name.startswith("step/")}
    assert int(said[1].replace(",", "")) == sum(tensor.numel() for tensor in moments.values()) // 2
    assert float(said[4]) == pytest.approx(_bytes(moments.values()) / 1e6, abs=0.006)
    adapters = [state[name.removeprefix("exp_avg/")] for name in moments if name.startswith("exp_avg/") and ".lora_" in name]
    assert float(said[3]) == pytest.approx(_bytes(adapters) / 1e6, abs=0.006)
    frozen = [tensor for name, tensor in read_tensors(base[1]).items() if name not in state]
    assert int(said[2].replace(",", "")) == sum(tensor.numel() for tensor in frozen)
    assert float(said[5]) == pytest.approx(_bytes(frozen) / 1e6, abs=0.006)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gradients(log: str) -> list[float]:
    """Smallest and largest norm of each target."""
    said = re.findall(r"^step 1: gradient norms of \d+ adapters: (.*); each got one$", log, re.M)
    assert len(said) == 1, log
    norms = [float(norm) for norm in re.findall(r"\d\.\d\de[-+]\d\d", said[0])]
    assert len(norms) == 2 * len(TARGETS.split(",")) and min(norms) > 0
    return norms


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
            time.sleep(0.002)
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
    words = _adapted(world, tmp_path, base, "--evaluation.test", "False", "--evaluation.every-epochs", "0")
    done = call(*LAUNCH_TWO, f"recipes/{base[0]}.py", *words, timeout_s=400, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _gradients(done.stdout + done.stderr) == pytest.approx(_gradients(_log(trained)), rel=0.01)
    ours, theirs = _state(tmp_path / base[0] / "tiny"), _state(trained)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if ".lora_" in name:
            torch.testing.assert_close(
                ours[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_it_is_scored_again_from_base_and_adapters(trained: Path) -> None:
    _tbps("evaluate", str(trained), "--split", "test")
    first, again = (json.loads(file.read_text()) for file in sorted((trained / "results").glob("*.json")))
    assert (first["purpose"], again["purpose"]) == ("final", "trial")
    assert first["text_to_image"] == again["text_to_image"] and first["size"] == again["size"]


def test_adapters_start_another_run_on_the_same_base_only(
    world: World, base: tuple[str, Path], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, other = tmp_path / "adapters.safetensors", tmp_path / "merged.safetensors"
    assert "adapters and heads alone, for encoders with sha256" in _tbps("convert", "--export", str(trained), str(alone))
    _tbps("convert", "--export", "--merge", str(trained), str(other))
    with safe_open(alone, framework="pt") as opened:
        assert len(opened.metadata()["base_sha256"]) == 64
    words = _adapted(world, tmp_path / "runs", base, "--lora.adapters", str(alone), "--schedule.max-steps", "1")
    words += ["--evaluation.test", "False", "--evaluation.every-epochs", "0"]
    assert run_recipe(base[0], *words) == 0
    assert run_recipe(base[0], *words, "--lora.targets", "q", "--name", "fewer") == 2
    assert "does not fit: " in (said := capsys.readouterr().err) and ", expected none; " in said
    assert run_recipe(base[0], *words, "--lora.alpha", "8", "--name", "stronger") == 2
    assert "does not fit: alpha: found 4, expected 8; give lora.rank, lora.alpha and lora.targets" in capsys.readouterr().err
    words[words.index("--start.weights") + 1] = str(other)
    assert run_recipe(base[0], *words, "--name", "other") == 2
    assert "were trained on encoders with sha256" in capsys.readouterr().err


def test_adapters_without_their_base_start_nothing(
    world: World, base: tuple[str, Path], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a run would begin with random encoders."""
    assert run_recipe(base[0], *_words(world, tmp_path, base[0], max_steps=1), "--start.weights", str(trained)) == 2
    assert "holds adapters and heads, without the encoders under them; expected whole weights" in capsys.readouterr().err


def test_it_does_not_go_on_where_its_start_weights_are_others_now(
    world: World, base: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(base[1].read_bytes())
    words = _adapted(world, tmp_path, (base[0], start), "--evaluation.test", "False", "--evaluation.every-epochs", "0")
    assert run_recipe(base[0], *words, "--schedule.max-steps", "1") == 0
    save_file({name: 2 * tensor for name, tensor in read_tensors(base[1]).items()}, start)
    assert run_recipe(base[0], *words, "--schedule.max-steps", "1") == 2
    assert "were trained on encoders with sha256" in capsys.readouterr().err


def test_frozen_weights_in_bfloat16_take_half_and_merge_in_float32(
    world: World, base: tuple[str, Path], tmp_path: Path
) -> None:
    short = ("--evaluation.test", "False", "--evaluation.every-epochs", "0", "--loop.precision", "bf16")
    frozen_mb: dict[str, float] = {}
    for name in ("fp32", "bf16"):
        log, words = (
            tmp_path / f"{name}.log",
            [*_adapted(world, tmp_path, base, *short), "--lora.base", name, "--name", name],
        )
        assert finish(words, log, recipe=base[0]) == 0, log.read_text()
        assert _gradients(log.read_text())
        frozen_mb[name] = float(re.findall(r"the frozen parameters ([\d.]+) MB", log.read_text())[0])
    # Of ALBEF's small encoders, norms and embeddings are a fifth; of CLIP's, nearly all is the table of words.
    assert frozen_mb["bf16"] < (0.65 if base[0] == "albef" else 0.99) * frozen_mb["fp32"]
    assert_merged_scores_as_adapted(tmp_path / base[0] / "bf16", tmp_path / "merged.safetensors")


def test_frozen_random_encoders_are_refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*_words(world, tmp_path, "albef", max_steps=1), *LORA]
    assert run_recipe("albef", *words) == 2
    assert "would stay random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--lora.targets", "q,attn"), "lora.targets is 'q,attn', expected some of q, k, v, out, fc1, fc2, with commas"),
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

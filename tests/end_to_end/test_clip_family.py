"""Recipes on CLIP's towers: from help to report, a step however it is shared out, kills, weights of others in and out."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from interrupted_run import Chaos
from small_world import (
    CLIP_AS_RECIPES_TRAIN,
    CLIP_FAMILY,
    LAUNCH_TWO,
    World,
    assert_one_sentence,
    call,
    metrics,
    run_recipe,
    spread,
)

from recipes import clip
from tbps.command import main
from tbps.config.clip_sizes import ClipSizes
from tbps.runs.checkpoint import read_tensors

STEPS = 8
"""Into the second epoch."""
TOLERANCE = 1e-5
LARGE_EPS = 1e-4
"""Adam divides by the size of a gradient. That of a single number of a rare word's vector can be 4e-10, no more than the
rounding of the numbers that it is a sum of; with the usual eps of 1e-8 that becomes a visible step. In float64, a batch as a
whole and in micro-batches gives the same weights to 2e-14."""


@pytest.mark.parametrize("recipe", CLIP_FAMILY)
def test_help_lists_the_settings(recipe: str) -> None:
    done = call(sys.executable, f"recipes/{recipe}.py", "cuhk-pedes", "--help")
    assert done.returncode == 0 and not done.stderr
    for setting in ("--data.batch-pairs", "--method.towers.image.width", "--method.towers.quick-gelu", "--start.clip"):
        assert f"\n  {setting} " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CLIP_FAMILY)
def test_tiny_trains_evaluates_and_reports(
    recipe: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert run_recipe(recipe, "tiny", *world.overrides(tmp_path, recipe=recipe), "--loop.log-steps", "1") == 0
    run_folder = tmp_path / recipe / "tiny"
    lines = metrics(run_folder)
    assert [line["step"] for line in lines if "split" not in line] == [1, 2, 3]
    assert [line["split"] for line in lines[3:]] == ["val", "test"]
    results = json.loads((run_folder / "results/final-cuhk-pedes-test.json").read_text())
    assert (results["recipe"], results["step"], results["size"]["identities"]) == (recipe, 3, 8)
    for direction in ("text_to_image", "image_to_text"):
        assert all(0 <= results[direction]["coarse"][name] <= 100 for name in ("rank_1", "rank_5", "mAP", "mINP"))
    assert results["text_to_image"]["reranked"] is None
    assert recipe in (run_folder / "report/report.html").read_text()


@pytest.mark.slow
def test_a_rerank_depth_without_a_matcher_is_said_once(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    words = [*world.overrides(tmp_path, recipe="clip", max_steps=1), "--evaluation.rerank-k", "16"]
    assert run_recipe("clip", "tiny", *words) == 0
    said = [line for line in caplog.messages if "rerank_k" in line]
    assert len(said) == 1 and "similarity" in said[0]


# -- a step however it is shared out -------------------------------------------------------------------------------------


def _arguments(world: World, runs: Path, recipe: str) -> list[str]:
    changes = ["--schedule.epochs", "5", "--evaluation.every-epochs", "0", "--evaluation.test", "False"]
    real = ["--data.workers", "1", "--loop.log-steps", "1", "--data.group-pairs", "8", "--optim.eps", str(LARGE_EPS)]
    return ["tiny", *world.overrides(runs, recipe=recipe, max_steps=STEPS), *changes, *real]


@pytest.fixture(scope="module", params=CLIP_FAMILY)
def alone(world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A recipe and where one process ran it."""
    runs = tmp_path_factory.mktemp("one")
    assert run_recipe(request.param, *_arguments(world, runs, request.param)) == 0
    return request.param, runs


def _assert_same(found: Path, recipe: str, alone: Path) -> None:
    ours, theirs = metrics(found / recipe / "tiny"), metrics(alone / recipe / "tiny")
    assert [line["step"] for line in ours[:STEPS]] == list(range(1, STEPS + 1))
    for line, other in zip(ours[:STEPS], theirs, strict=False):
        assert line == pytest.approx(other, rel=TOLERANCE), f"step {line['step']}"
    weights, others = (
        read_tensors(runs / recipe / f"tiny/checkpoints/step-{STEPS:08d}/model.safetensors") for runs in (found, alone)
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        # One number added to all keys changes no softmax: a key's bias has no gradient but rounding.
        if not name.endswith("key.bias"):
            error, largest = ((one.abs().max().item()) for one in (tensor - others[name], others[name]))
            assert error <= 2 * TOLERANCE * largest, f"{name}: {error:.1e} of {largest:.1e}"


@pytest.mark.slow
def test_four_micro_batches(world: World, alone: tuple[str, Path], tmp_path: Path) -> None:
    recipe, runs = alone
    assert run_recipe(recipe, *_arguments(world, tmp_path, recipe), "--data.micro-batch-pairs", "8") == 0
    _assert_same(tmp_path, recipe, runs)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "micro_batch"), [(0, 0), (0, 8), (1, 0), (2, 8), (3, 8)])
def test_two_processes(world: World, alone: tuple[str, Path], tmp_path: Path, stage: int, micro_batch: int) -> None:
    recipe, runs = alone
    words = [*_arguments(world, tmp_path, recipe), "--data.micro-batch-pairs", str(micro_batch)]
    done = call(*LAUNCH_TWO, f"recipes/{recipe}.py", *words, **spread(stage))
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path, recipe, runs)


@pytest.mark.slow
def test_activation_checkpointing_changes_no_loss_and_bfloat16_little(
    world: World, alone: tuple[str, Path], tmp_path: Path
) -> None:
    recipe, runs = alone
    words = _arguments(world, tmp_path, recipe)
    assert run_recipe(recipe, *words, "--name", "less-memory", "--loop.activation-checkpointing", "True") == 0
    half = [*words, "--name", "bf16", "--loop.precision", "bf16", "--schedule.max-steps", "3"]
    done = call(sys.executable, f"recipes/{recipe}.py", *half)  # a process has one precision
    assert done.returncode == 0, done.stderr
    plain = metrics(runs / recipe / "tiny")[:STEPS]
    for line, other in zip(metrics(tmp_path / recipe / "less-memory")[:STEPS], plain, strict=True):
        assert line == pytest.approx(other, rel=TOLERANCE)
    losses = [line["loss"] for line in metrics(tmp_path / recipe / "bf16")[:3]]
    assert losses[0] != plain[0]["loss"] and losses == pytest.approx([line["loss"] for line in plain[:3]], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "stage"), [("clip", 0), ("clip", 2), ("irra", 0), ("irra", 2), ("bilma", 2)])
def test_killed_and_stopped_at_random_moments(world: World, tmp_path: Path, recipe: str, stage: int) -> None:
    """`python -m tests.chaos --recipe clip --zero 2 --times 10` makes as many as one likes."""
    assert CLIP_AS_RECIPES_TRAIN  # loader workers hear signals too
    chaos = Chaos(world, tmp_path, seed=11 + stage, say=lambda line: None, recipe=recipe, stage=stage)
    chaos.interrupt(2)


# -- weights of others -----------------------------------------------------------------------------------------------------


def _open_clip_model(sizes: ClipSizes, image_px: tuple[int, int]) -> Any:
    image, text = sizes.image, sizes.text
    return open_clip.model.CLIP(
        embed_dim=sizes.features,
        quick_gelu=sizes.quick_gelu,
        vision_cfg={
            "image_size": image_px,
            "layers": image.layers,
            "width": image.width,
            "head_width": image.width // image.heads,
            "patch_size": image.patch_px,
        },
        text_cfg={
            "context_length": text.max_positions,
            "vocab_size": text.vocabulary_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    )


@pytest.mark.slow
def test_it_starts_from_open_clips_weights_and_gives_open_clip_its_own(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = clip.tiny()
    sizes = run.method.towers  # type: ignore[attr-defined]
    torch.manual_seed(0)
    square = _open_clip_model(sizes, (32, 32))
    torch.save({"state_dict": square.state_dict()}, tmp_path / "clip.pt")
    words = [*world.overrides(tmp_path, recipe="clip", max_steps=1), "--evaluation.test", "False"]
    assert run_recipe("clip", "tiny", *words, "--start.clip", str(tmp_path / "clip.pt")) == 0
    assert "1 position tables interpolated" in caplog.text
    out = tmp_path / "official.pt"
    assert main(["convert", "--export", "--official", str(tmp_path / "clip/tiny"), str(out)]) == 0
    model = _open_clip_model(sizes, run.data.image_px)
    loaded = open_clip.load_checkpoint(model, str(out))
    assert loaded.missing_keys == loaded.unexpected_keys == []
    moved = (model.token_embedding.weight - square.token_embedding.weight).abs().max()
    assert 0 < moved < 0.1  # one step from where it started


def test_weights_of_another_size_are_one_sentence(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _open_clip_model(clip.tiny().method.towers, (32, 32))  # type: ignore[attr-defined]
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    words = [*world.overrides(tmp_path, recipe="clip", max_steps=1), "--method.towers.features", "32"]
    assert run_recipe("clip", "tiny", *words, "--start.clip", str(tmp_path / "clip.pt")) == 2
    assert_one_sentence(
        capsys.readouterr().err,
        "its towers are of another size (towers.features 64, expected 32); set --method.tow",
    )

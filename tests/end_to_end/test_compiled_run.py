"""A whole run with `loop.compile`: two processes, workers, a stop and another start, beside one that compiles nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from small_world import LAUNCH_TWO, World, call, metrics, run_recipe

PROCESS = str(Path(__file__).with_name("compiled_process.py"))
STEPS = 4


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_and_the_checkpoints_of_any_other(world: World, tmp_path: Path) -> None:
    compiled, eager = tmp_path / "compiled", tmp_path / "eager"
    words = ["--loop.log-steps", "1", "--loop.save-steps", "2", "--data.workers", "1", "--evaluation.every-epochs", "0"]

    def arguments(runs: Path) -> list[str]:
        return ["tiny", *world.overrides(runs, max_steps=STEPS, recipe="clip"), *words]

    done = call(*LAUNCH_TWO, PROCESS, "recipes/clip.py", *arguments(compiled), "--loop.compile", "True", timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert "compiled when first called: CLIP's blocks (2)" in done.stderr
    made = [int(number) for number in re.findall(r"graphs compiled, (\d+) in all", done.stderr)]
    assert made and made[-1] <= 6, "one for each tower and each kind of call, none for each length"
    assert run_recipe("clip", *arguments(eager)) == 0
    expected = metrics(eager / "clip/tiny")
    assert metrics(compiled / "clip/tiny")[:STEPS] == [pytest.approx(line, rel=1e-5) for line in expected[:STEPS]]
    # The checkpoint of two compiling processes goes on in one that compiles nothing.
    shutil.rmtree(compiled / f"clip/tiny/checkpoints/step-{STEPS:08d}")
    assert run_recipe("clip", *arguments(compiled)) == 0
    assert metrics(compiled / "clip/tiny")[:STEPS] == [pytest.approx(line, rel=1e-5) for line in expected[:STEPS]]

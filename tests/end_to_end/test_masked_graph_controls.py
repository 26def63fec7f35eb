"""Masked graph modelling in 90 steps of `tiny`: its target does not collapse, and the masked part must be hidden.

Each with a control that shows that the test can fail: a target that follows the loss, and a masked part that can be seen.
The curves are printed: `pytest -s -m slow tests/end_to_end/test_masked_graph_controls.py`.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
from small_world import World, metrics, run_recipe

STEPS, EVERY = 90, 10
"""Steps of a run, and those whose mean is one number of a curve."""
SIZES = ("--data.batch-pairs", "8", "--data.group-pairs", "8", "--method.weights.mlm", "0", "--data.augmentations", "flip")
QUIET = ("--schedule.epochs", "99", "--evaluation.every-epochs", "0", "--evaluation.test", "False")
COLLAPSING = ("--method.graph.target-gradient", "True", "--method.graph.target-norm", "False")
# What is guessed is then what the masked part's own patches say.
FEATURES = ("--method.graph.target", "features", "--method.graph.counted", "masked")


def curves(world: World, runs: Path, name: str, *changes: str) -> dict[str, list[float]]:
    """Of a run: numbers of its log by name, printed."""
    words = [*world.overrides(runs, recipe="bamg", max_steps=STEPS), *QUIET, *SIZES]
    assert run_recipe("bamg", "tiny", *words, *changes, "--name", name) == 0
    lines = [line for line in metrics(runs / "bamg" / name) if "split" not in line]
    assert len(lines) == STEPS
    found = {
        key: [statistics.mean(line[key] for line in lines[first : first + EVERY]) for first in range(0, STEPS, EVERY)]
        for key in ("loss/mgm", "mgm_of_masked", "mgm_target_variance")
    }
    for key, values in found.items():
        sys.stdout.write(f"{name}: {key} {' '.join(f'{value:.3f}' for value in values)}\n")
    return found


@pytest.mark.slow
def test_the_target_does_not_collapse_and_the_control_does(world: World, tmp_path: Path) -> None:
    ours = curves(world, tmp_path, "default")
    control = curves(world, tmp_path, "collapsing", *COLLAPSING)
    first = ours["mgm_target_variance"][0]
    assert min(ours["mgm_target_variance"]) > 0.5 * first > 0.1
    assert ours["loss/mgm"][-1] < 0.6 * ours["loss/mgm"][0], "the graph is guessed all the same"
    assert control["mgm_target_variance"][-1] < 0.1 * first
    assert control["loss/mgm"][-1] < 0.1 * ours["loss/mgm"][-1], "a collapsed target is met with no error"


@pytest.mark.slow
def test_a_masked_part_that_can_be_seen_is_nearly_free(world: World, tmp_path: Path) -> None:
    hidden = curves(world, tmp_path, "hidden", *FEATURES)
    visible = curves(world, tmp_path, "visible", *FEATURES, "--method.graph.hide-masked", "False")
    assert hidden["mgm_of_masked"][0] == pytest.approx(visible["mgm_of_masked"][0], rel=0.2)
    assert visible["mgm_of_masked"][-1] < 0.5 * hidden["mgm_of_masked"][-1]

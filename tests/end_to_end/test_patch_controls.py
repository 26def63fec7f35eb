"""BiLMa's masked patches from end to end: what positions are for, and data without parsing maps."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import World, assert_one_sentence, metrics, run_recipe

STEPS, LAST = 60, 20


def told(world: World, runs: Path, *, positions: bool) -> tuple[float, float, float]:
    """Trained on labels of masked patches: those told, of the commonest label, in per cent, and the loss, late means."""
    words = world.overrides(runs, recipe="bilma", max_steps=STEPS)
    words += ["--evaluation.every-epochs", "0", "--evaluation.test", "False", "--schedule.epochs", "36"]
    words += ["--method.weights.mlm", "0", "--method.weights.identity", "0", "--method.weights.mim", "1"]
    words += ["--method.patch-mask-ratio", "0.3", "--method.patch-positions", str(positions)]
    assert run_recipe("bilma", "tiny", *words) == 0
    lines = [line for line in metrics(runs / "bilma/tiny") if "split" not in line][-LAST:]
    assert lines[-1]["step"] == STEPS
    names = ("patches_told", "patches_of_commonest_label", "loss/mim")
    right, commonest, loss = (sum(line[name] for line in lines) / LAST for name in names)
    return right, commonest, loss


@pytest.mark.slow
def test_without_positions_masked_patches_are_told_no_better_than_by_the_commonest_label(
    world: World, tmp_path: Path
) -> None:
    """The control must fail: all masked patches of an image are one token, so it can only learn how frequent labels are."""
    right, commonest, loss = told(world, tmp_path / "with", positions=True)
    blind, prior, blind_loss = told(world, tmp_path / "without", positions=False)
    print(f"with positions: {right:.2f} % told (commonest label {commonest:.2f} %), loss {loss:.3f}")
    print(f"without positions: {blind:.2f} % told (commonest label {prior:.2f} %), loss {blind_loss:.3f}")
    assert prior == pytest.approx(commonest), "both see the same patches"
    assert right > commonest + 2
    assert blind == pytest.approx(prior, abs=1)
    assert loss < 0.8 * blind_loss


def test_data_without_parsing_maps_are_refused_with_the_command_that_makes_them(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*world.overrides(tmp_path, recipe="bilma"), "--data.root", str(world.rstpreid), "--data.benchmark", "rstpreid"]
    assert run_recipe("bilma", "tiny", *words) == 2
    assert_one_sentence(capsys.readouterr().err, "parsing", "tbps parse")
    # A target that needs no maps trains there.
    words += ["--method.patch-target", "mean-colour", "--schedule.max-steps", "1", "--evaluation.test", "False"]
    assert run_recipe("bilma", "tiny", *words) == 0

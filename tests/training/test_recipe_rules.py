"""Every rule of every recipe means something: a rule that may match nothing is not told when its name is mistyped."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from tbps.config.run import Run
from tbps.methods.registry import build_method
from tbps.training.optimiser import parameter_groups

RECIPES = Path(__file__).parents[2] / "recipes"
VARIANTS = {
    f"{path.stem} {variant}": make
    for path in sorted(RECIPES.glob("*.py"))
    for variant, make in getattr(importlib.import_module(f"recipes.{path.stem}"), "VARIANTS", {}).items()
    if variant not in ("icfg-pedes", "rstpreid")  # as cuhk-pedes
}


def _groups(run: Run) -> dict[str, list[str]]:
    """Parameter names by the name of their rate."""
    with torch.device("meta"):
        method = build_method(run.method, image_px=run.data.image_px, num_identities=10)
    names: dict[str, list[str]] = {}
    for group in parameter_groups(method, run.optim):
        names.setdefault(group["rate_name"], []).extend(group["names"])
    return names


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_rule_means_a_trained_parameter(variant: str) -> None:
    run = VARIANTS[variant]()
    trained = [name for names in _groups(run).values() for name in names]
    assert trained
    assert [rule.pattern for rule in run.optim.rules if not any(map(rule.matches, trained))] == []


def test_mars_and_rasa_train_two_heads_at_ten_times_the_rate() -> None:
    for name in ("mars", "rasa", "aga"):
        names = _groups(VARIANTS[f"{name} cuhk-pedes"]())["lr/prd_head+mrtd_head"]
        assert [name.rpartition(".")[0].rpartition(".")[2] for name in names] == ["prd_head", "mrtd_head"] * 2

"""Small twins of recipes."""

from __future__ import annotations

import importlib
from dataclasses import replace

from tbps.config.run import Run
from tbps.recipe_command import read_overrides

PAIRS = 32


def run_of(recipe: str, *overrides: str) -> Run:
    """`tiny` of a recipe, told the number of identities where it asks."""
    name, _, variant = recipe.partition(":")
    variants = importlib.import_module(f"recipes.{name}").VARIANTS
    run = read_overrides(variants[variant or "tiny"], list(overrides), program=recipe)
    return replace(run, data=replace(run.data, batch_pairs=PAIRS, num_identities=100 if run.needs.identities else 0))

"""Two settings of the toy method: python -m launch.sweep toy/sweep.py --eager --data.root demo/cuhk-pedes"""

from __future__ import annotations

from pathlib import Path

from launch.sweep_points import Row, grid

TITLE = "Toy: letters hidden in training"
POINTS = grid(
    str(Path(__file__).with_name("recipe.py")),
    "tiny",
    seeds=(1,),
    rows={"none": Row("--method.hidden-letters 0"), "a fifth": Row("--method.hidden-letters 0.2")},
)

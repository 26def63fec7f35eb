"""Who may import whom: launch -> recipes -> tbps, and inside tbps one way down. The rules stand in tests/arrows.py."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
from arrows import (
    ARROWS,
    ROOT,
    between_files,
    between_rooms,
    circle,
    drawn,
    imports,
    inside,
    main,
    modules,
    offences,
    problems,
)


def test_every_import_follows_the_arrows_and_there_is_no_circle() -> None:
    assert problems(modules()) == []


SHARED_BY_RECIPES = ("recipes.tiny", "recipes.benchmarks")
"""Sizes of the small twins, and what another benchmark changes. Every number of a recipe stands in its own file."""
PRETRAINS = "recipes.pretrain_mals"
"""It may read the recipes that start from its weights: they fit only where both build the same method."""


def test_no_recipe_is_built_on_another() -> None:
    found = [
        f"{module}:{line} imports {name}"
        for module, path in modules().items()
        for line, name in imports(ast.parse(path.read_text()), module)
        if module.startswith("recipes.") and module != PRETRAINS
        if inside(name, "recipes") and not name.startswith(SHARED_BY_RECIPES)
    ]
    assert found == []


SEAM = ("tbps.methods.method", "tbps.methods.registry", "tbps.methods.exhibit")
"""What everybody may know of methods. A method itself is known to its own room alone."""


def test_nobody_outside_of_their_room_knows_a_method() -> None:
    found = [
        f"{module}:{line} imports {name}"
        for module, path in modules().items()
        for line, name in imports(ast.parse(path.read_text()), module)
        if inside(name, "tbps.methods") and not inside(module, "tbps.methods")
        if not any(inside(name, seam) for seam in SEAM)
    ]
    assert found == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def _write(root: Path, **sources: str) -> dict[str, Path]:
    """A tree of ours: `tbps__nn__bert` is the file of tbps.nn.bert."""
    for name, source in sources.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return modules(root)


@pytest.mark.parametrize(
    "source", ["def f():\n    from tbps.data import pairs", "if TYPE_CHECKING:\n    import tbps.data.pairs"]
)
def test_a_circle_of_files_through_a_lazy_import_is_seen(tmp_path: Path, source: str) -> None:
    paths = _write(tmp_path, tbps__data__pairs="from tbps.data.shards import x", tbps__data__shards=source)
    assert problems(paths) == ["files import each other in a circle: tbps.data.pairs -> tbps.data.shards -> tbps.data.pairs"]


def test_a_circle_of_rooms_is_seen_where_no_file_is_in_one(tmp_path: Path) -> None:
    paths = _write(
        tmp_path,
        tbps__evaluation__rank="def f():\n    import tbps.run",
        tbps__run="from tbps.config.run import Run",
        tbps__machine="from tbps.evaluation.score import score",
        tbps__evaluation__score="",
        tbps__config__run="",
        recipes__a="from tbps.evaluation.rank import f",
    )
    assert circle(between_files(paths)) == []
    assert problems(paths) == ["tbps.evaluation.rank:2 imports tbps.run"]
    paths = _write(tmp_path, tbps__run="from tbps.evaluation.score import score")
    assert problems(paths)[1:] == ["rooms import each other in a circle: tbps.evaluation -> tbps.run -> tbps.evaluation"]


def test_rooms_are_drawn_from_the_top(capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn(
        {"tbps.low": set(), "launch": {"tbps.low", "tbps.run"}, "tbps.run": {"tbps.low"}, "tbps": set()}
    ).splitlines() == ["launch -> tbps.low, tbps.run", "tbps.run -> tbps.low", "tbps.low -> nothing of ours"]
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tbps.config -> nothing of ours" in lines and lines[-1].endswith("lazy imports included: no arrow up, no circle")
    places = [line.split(" -> ")[0] for line in lines if " -> " in line]
    for room, others in between_rooms(between_files(modules())).items():
        assert all(places.index(room) < places.index(other) for other in others)


def test_every_folder_has_a_rule() -> None:
    folders = {f"tbps.{path.parent.name}" for path in (ROOT / "tbps").glob("*/__init__.py")}
    assert folders == {folder for folder in ARROWS if folder.startswith("tbps.")}
    assert len(modules()) > 40


@pytest.mark.parametrize(
    ("module", "source", "name"),
    [
        ("tbps.nn.bert", "from tbps.config.methods import Bert", "tbps.config.methods.Bert"),
        ("tbps.nn.bert", "if TYPE_CHECKING:\n    from tbps.config import methods", "tbps.config.methods"),
        ("tbps.nn.bert", "def build():\n    import tbps.methods.albef.rasa", "tbps.methods.albef.rasa"),
        ("tbps.nn.bert", "from tbps import methods", "tbps.methods"),
        ("tbps.nn.bert", "from ..methods.albef import rasa", "tbps.methods.albef.rasa"),
        ("tbps.nn.bert", "from .. import methods", "tbps.methods"),
        ("tbps.objectives.itc", "from tbps.nn.bert import Bert", "tbps.nn.bert.Bert"),
        ("tbps.objectives.itc", "from tbps.data.draws import draw_pair", "tbps.data.draws.draw_pair"),
        ("tbps.methods.albef.rasa", "from tbps.training import loop", "tbps.training.loop"),
        ("tbps.methods.albef.rasa", "import tbps.evaluation.metrics as metrics", "tbps.evaluation.metrics"),
        ("tbps.data.loader", "from tbps.methods.method import Method", "tbps.methods.method.Method"),
        ("tbps.evaluation.metrics", "from tbps.training.loop import train", "tbps.training.loop.train"),
        ("tbps.training.loop", "import recipes.mars", "recipes.mars"),
        ("tbps.command", "from launch import jobs", "launch.jobs"),
        ("recipes.mars", "from launch.sweep import grid", "launch.sweep.grid"),
        ("tbps.config.run", "def run():\n    from tbps.run import train_run", "tbps.run.train_run"),
        ("tbps.config.run", "if TYPE_CHECKING:\n    import tbps.methods.method", "tbps.methods.method"),
        ("tbps.config.run", "import torch", "torch"),
        ("tbps.config.run", "try:\n    import tyro\nexcept ImportError:\n    tyro = None", "tyro"),
        (
            "tbps.config.run",
            "class Run:\n    from tbps.methods.albef.rasa import RasaMethod",
            "tbps.methods.albef.rasa.RasaMethod",
        ),
    ],
)
def test_an_offence_is_seen(module: str, source: str, name: str) -> None:
    found = offences(module, source)
    assert len(found) == 1
    assert found[0].endswith(f" imports {name}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tbps.config.methods", "def build():\n    import torch"),
        ("tbps.config.methods", "if TYPE_CHECKING:\n    from torch import Tensor"),
        ("tbps.config.run", "from __future__ import annotations\nimport dataclasses\nfrom .methods import Mars"),
        ("tbps.objectives.itc", "import torch\nfrom tbps.nn.queue import FeatureQueue"),
        ("tbps.methods.albef.rasa", "from tbps.objectives.itc import Features\nfrom tbps.nn import bert"),
        ("tbps.convert.weights", "from tbps.methods.albef.rasa import RasaMethod"),
        ("launch.submit", "import submitit\nimport recipes.mars\nfrom tbps.config.run import Run"),
        ("recipes.mars", "from tbps.config.run import Run"),
        ("tbps.command", "from tbps.training import loop"),
    ],
)
def test_what_is_allowed_is_let_through(module: str, source: str) -> None:
    assert offences(module, source) == []


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """Folders of tests are no packages: pytest imports their files by name alone, and the first of a name counts."""
    files = [file.name for file in Path(__file__).parent.rglob("*.py") if file.name not in ("conftest.py", "__init__.py")]
    assert sorted(name for name in set(files) if files.count(name) > 1) == []


TOP_LEVEL = {
    *(".ci", ".gitignore", "benchmarks", "launch", "recipes", "slurm", "tbps", "tests"),
    *("LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "ruff.toml", "setup.cfg"),
}


def test_the_top_level_holds_what_belongs_there() -> None:
    """What a command left behind where it was tried (a log, a run) is not committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} <= TOP_LEVEL

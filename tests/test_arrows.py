"""Who may import whom: launch -> recipes -> tbps, and inside tbps one way down. See the head of ARROWS."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Folder -> what it may import of our own. `tbps/command.py` and `tbps/run.py` tie the parts together: they may import any.
ARROWS = {
    "launch": ("launch", "recipes", "tbps"),
    "recipes": ("recipes", "tbps"),
    "tbps": ("tbps",),
    "tbps.config": ("tbps.config",),
    "tbps.nn": ("tbps.nn",),
    "tbps.text": ("tbps.text", "tbps.config"),
    "tbps.data": ("tbps.data", "tbps.text", "tbps.config"),
    "tbps.synthetic": ("tbps.synthetic", "tbps.data", "tbps.text", "tbps.config"),
    "tbps.runs": ("tbps.runs", "tbps.config", "tbps.data.file_lock"),
    "tbps.objectives": ("tbps.objectives", "tbps.nn.queue", "tbps.data.batch", "tbps.text.token_batch"),
    "tbps.methods": ("tbps.methods", "tbps.objectives", "tbps.nn", "tbps.data", "tbps.text", "tbps.config"),
    # Training starts from converted weights, and an export reads what training wrote.
    "tbps.convert": ("tbps.convert", "tbps.methods", "tbps.runs", "tbps.nn", "tbps.config"),
    "tbps.evaluation": (
        "tbps.evaluation",
        "tbps.methods",
        "tbps.objectives",
        "tbps.nn",
        "tbps.data",
        "tbps.text",
        "tbps.config",
    ),
}
# Training validates and starts from converted weights; reports look at everything.
ARROWS["tbps.training"] = ("tbps.training", "tbps.convert", "tbps.runs", *ARROWS["tbps.evaluation"])
ARROWS["tbps.reporting"] = ("tbps.reporting", *ARROWS["tbps.training"])


def folder_of(module: str) -> str:
    """The longest key of ARROWS that a module lies in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ARROWS else parts[0]


def inside(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST, module: str, *, at_import_only: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of what is imported; `at_import_only` leaves out functions and TYPE_CHECKING blocks."""
    for node in ast.iter_child_nodes(tree):
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)
        if at_import_only and lazy:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([*above, base] if base else above)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        yield from imports(node, module, at_import_only=at_import_only)


def offences(module: str, source: str) -> list[str]:
    """Imports of `module` (a dotted name) that break a rule, as `module:line imports name`."""
    folder, found = folder_of(module), []
    light = folder == "tbps.config"
    for line, name in imports(ast.parse(source), module, at_import_only=light):
        if light:
            allowed = name.split(".")[0] in sys.stdlib_module_names or inside(name, "tbps.config")
        else:
            ours = name.split(".")[0] in ("launch", "recipes", "tbps")
            allowed = not ours or any(inside(name, other) for other in ARROWS[folder])
        if not allowed:
            found.append(f"{module}:{line} imports {name}")
    return found


def modules() -> list[tuple[str, Path]]:
    found = []
    for folder in ("launch", "recipes", "tbps"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts), path))
    return found


def test_every_import_follows_the_arrows() -> None:
    assert [offence for module, path in modules() for offence in offences(module, path.read_text())] == []


SHARED_BY_RECIPES = ("recipes.tiny", "recipes.benchmarks")
"""Sizes of the small twins, and what another benchmark changes. Every number of a recipe stands in its own file."""


def test_no_recipe_is_built_on_another() -> None:
    found = [
        f"{module}:{line} imports {name}"
        for module, path in modules()
        for line, name in imports(ast.parse(path.read_text()), module, at_import_only=False)
        if module.startswith("recipes.") and inside(name, "recipes") and not name.startswith(SHARED_BY_RECIPES)
    ]
    assert found == []


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Names along the first circle found, empty when there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows[name]):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in arrows if (found := walk(name, []))), [])


def test_no_file_imports_itself_in_a_circle() -> None:
    paths = dict(modules())
    arrows = {}
    for module, path in paths.items():
        names = {name for _, name in imports(ast.parse(path.read_text()), module, at_import_only=True)}
        arrows[module] = {name for each in names for name in (each, each.rpartition(".")[0]) if name in paths}
    assert circle(arrows) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


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
        ("tbps.config.methods", "def build():\n    import torch\n    from tbps.methods.albef.rasa import RasaMethod"),
        ("tbps.config.methods", "if TYPE_CHECKING:\n    from tbps.methods.albef.rasa import RasaMethod"),
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

"""`python -m tests.arrows`: who imports whom, as rooms and arrows, and what of it is not allowed.

launch -> recipes -> tbps, and inside tbps one way down (ARROWS). Every import counts, those inside functions and under
TYPE_CHECKING too: an arrow that is only drawn when a function runs is an arrow. The command's status is 1 where an import
breaks a rule, or where rooms or files import each other in a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Room -> what it may import of our own. Files that lie in `tbps/` itself tie the rooms together: they may import any, and
# nothing in a room may import them.
ARROWS = {
    "launch": ("launch", "recipes", "tbps"),
    "recipes": ("recipes", "tbps"),
    "tbps": ("tbps",),
    "tbps.config": ("tbps.config",),
    "tbps.nn": ("tbps.nn",),
    "tbps.text": ("tbps.text", "tbps.config"),
    "tbps.data": ("tbps.data", "tbps.text", "tbps.config"),
    "tbps.synthetic": ("tbps.synthetic", "tbps.data", "tbps.text", "tbps.config"),
    "tbps.parsing": ("tbps.parsing", "tbps.data", "tbps.config"),
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
# A plan runs the step that trains.
ARROWS["tbps.planning"] = ("tbps.planning", *ARROWS["tbps.training"])
# Searching reads what training wrote, and needs nothing of how.
ARROWS["tbps.search"] = ("tbps.search", "tbps.convert", "tbps.runs", *ARROWS["tbps.evaluation"])
ARROWS["tbps.serving"] = ("tbps.serving", *ARROWS["tbps.search"])
ARROWS["tbps.reporting"] = ("tbps.reporting", *ARROWS["tbps.training"])

OURS = ("launch", "recipes", "tbps")
Imports = Mapping[str, set[str]]
"""By file or room, what it imports."""


def room_of(module: str) -> str:
    """The longest key of ARROWS that a module lies in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ARROWS else parts[0]


def inside(name: str, allowed: str) -> bool:
    """Whether a dotted name is `allowed` or lies in it."""
    return name == allowed or name.startswith(f"{allowed}.")


def imports(tree: ast.AST, module: str, *, at_import_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of what is imported; `at_import_only` leaves out functions and TYPE_CHECKING blocks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):  # holds no statement
            continue
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
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


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def offences(module: str, source: str) -> list[str]:
    """Imports of `module` (a dotted name) that break a rule, as `module:line imports name`."""
    room, tree = room_of(module), ast.parse(source)
    allowed = ARROWS[room]
    found = [
        (line, name)
        for line, name in imports(tree, module)
        if name.split(".")[0] in OURS and not any(inside(name, other) for other in allowed)
    ]
    if room == "tbps.config":  # what is heavy is imported where it is used
        found += [
            (line, name)
            for line, name in imports(tree, module, at_import_only=True)
            if name.split(".")[0] not in (*sys.stdlib_module_names, *OURS)
        ]
    return [f"{module}:{line} imports {name}" for line, name in sorted(found)]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every file of ours by its dotted name."""
    paths = [path for folder in OURS for path in sorted((root / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


def between_files(paths: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which file imports which, lazily or not."""
    arrows = {}
    for module, path in paths.items():
        names = {name for _, name in imports(ast.parse(path.read_text(encoding="utf-8")), module)}
        arrows[module] = {name for each in names for name in (each, each.rpartition(".")[0]) if name in paths} - {module}
    return arrows


def between_rooms(files: Imports) -> dict[str, set[str]]:
    """Which room imports which. A file that lies in `tbps/` itself is a room of its own."""
    arrows: dict[str, set[str]] = {}
    for module, others in files.items():
        arrows.setdefault(_place(module), set()).update(_place(other) for other in others if _place(other) != _place(module))
    return arrows


def _place(module: str) -> str:
    return module if room_of(module) == "tbps" else room_of(module)


def circle(arrows: Imports) -> list[str]:
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


def problems(paths: Mapping[str, Path]) -> list[str]:
    """Every import that breaks a rule, and a circle of rooms and of files where there is one."""
    found = [each for module, path in paths.items() for each in offences(module, path.read_text(encoding="utf-8"))]
    files = between_files(paths)
    for kind, arrows in (("rooms", between_rooms(files)), ("files", files)):
        if around := circle(arrows):
            found.append(f"{kind} import each other in a circle: {' -> '.join(around)}")
    return found


def drawn(rooms: Imports) -> str:
    """A line for each room, whoever imports above what is imported."""
    order: list[str] = []

    def below(room: str) -> None:
        if room not in order:
            order.append(room)  # before its own, so that a circle ends
            for other in sorted(rooms[room]):
                below(other)
            order.remove(room)
            order.append(room)

    for room in sorted(rooms, key=lambda room: (-OURS.index(room.split(".")[0]), room)):  # whoever comes last is drawn first
        below(room)
    imported = set().union(*rooms.values())
    shown = [room for room in reversed(order) if rooms[room] or room in imported]
    lines = [f"{room} -> {', '.join(sorted(rooms[room])) or 'nothing of ours'}" for room in shown]
    return "\n".join(lines)


def main() -> int:
    """Print rooms and arrows, then what breaks a rule."""
    paths = modules()
    files = between_files(paths)
    sys.stdout.write(drawn(between_rooms(files)) + "\n\n")
    found = problems(paths)
    for problem in found:
        sys.stdout.write(problem + "\n")
    num_arrows = sum(map(len, files.values()))
    counted = f"{len(paths)} files, {num_arrows} arrows between them, lazy imports included"
    sys.stdout.write(f"{counted}: {f'{len(found)} problems' if found else 'no arrow up, no circle'}\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())

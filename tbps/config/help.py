"""What `--help` of a recipe prints: every field with its value, its docstring and its range.

tyro reads the overrides; its own help takes longer than the half second that a question may cost.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from tbps.config.ranges import ranges_of

WIDTH = 110


def help_text(run: Any, *, program: str) -> str:
    """Usage, then a section per part of the run: `--part.field VALUE` and what it means."""
    lines = [f"usage: {program} [--part.field VALUE ...]", "", "Every setting, its value in this variant and its meaning:"]
    return "\n".join([*lines, *_section(run, "", inspect.getdoc(type(run)) or "")]) + "\n"


def _section(part: Any, path: str, about: str) -> Iterator[str]:
    yield f"\n{path.rstrip('.') or 'run'}: {about.splitlines()[0]}"
    docs, ranges, hints = field_docs(type(part)), ranges_of(type(part)), get_type_hints(type(part))  # type: ignore[arg-type]
    nested = []
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            nested.append((field.name, value))
            continue
        if isinstance(value, tuple) and value and all(is_dataclass(entry) for entry in value):
            nested += [(f"{field.name}.{place}", entry) for place, entry in enumerate(value)]
            continue
        if value is None and any(is_dataclass(kind) for kind in get_args(hints[field.name])):
            yield f"  {path}{field.name}: none, set by a recipe alone"
        else:
            yield f"  --{path}{field.name.replace('_', '-')} {_shown(value)}"
        meaning = docs.get(field.name, "") + (f" [{ranges[field.name]}]" if field.name in ranges else "")
        yield from textwrap.wrap(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    for name, value in nested:
        yield from _section(value, f"{path}{name}.", inspect.getdoc(type(value)) or "")


def field_docs(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass and of its bases, white space folded."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        body = _class_body(base)
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                docs[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return docs


_MODULES: dict[str, ast.Module] = {}


def _class_body(kind: type) -> list[ast.stmt]:
    if kind.__module__ not in _MODULES:
        _MODULES[kind.__module__] = ast.parse(inspect.getsource(inspect.getmodule(kind)))  # type: ignore[arg-type]
    for node in _MODULES[kind.__module__].body:
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            return node.body
    return []


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return repr(value) if value == "" else str(value)

"""Every setting is explained where it is defined: a string below each field of each config."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "tbps" / "config"


def fields_without_docs(source: str) -> Iterator[str]:
    """`Class.field` of each field of a dataclass that no string follows, or an empty one."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list)):
            continue
        for field, below in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
            is_field = isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation)
            if is_field and not _is_text(below):
                yield f"{node.name}.{ast.unparse(field.target)}"


def _is_text(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and bool(value.value.strip())


def test_every_field_of_every_config_is_explained() -> None:
    files = sorted(CONFIG.rglob("*.py"))
    assert len(files) > 15
    missing = [f"{path.name}: {name}" for path in files for name in fields_without_docs(path.read_text(encoding="utf-8"))]
    assert missing == []


def test_a_field_without_docs_is_seen() -> None:
    source = '''
@dataclass(frozen=True)
class A:
    """About A."""

    first: int = 1
    """Explained."""
    second: int = 2
    third: int = 3
    """   """
    last: int
    MODULE: ClassVar[str] = ""

class NoConfig:
    x: int
'''
    assert list(fields_without_docs(source)) == ["A.second", "A.third", "A.last"]

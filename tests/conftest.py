"""Tests that share what a fixture of their module makes go to one worker process, which makes it once; so do tests for which
a process remembers something: what operations on fake tensors give, what torch's compiler and exporter have learned."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.append(str(TESTS / "end_to_end"))
TOGETHER = {
    TESTS / "planning": "rehearsal",
    TESTS / "gpu/rehearsal": "rehearsal",
    TESTS / "convert/test_every_method.py": "exporter",
    TESTS / "training/test_compilation.py": "compiler",
}
"""The group of all tests in a folder or file."""

gc.disable()  # what is imported and collected stays: a fifth of the time of both


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A group for each module and each parameter of its fixtures, unless the test says which group it is of, or TOGETHER."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("xdist_group") is None:
            if together := [TOGETHER[place] for place in (item.path, *item.path.parents) if place in TOGETHER]:
                item.add_marker(pytest.mark.xdist_group(together[0]))
                continue
            made = [name for name, fixtures in item._fixtureinfo.name2fixturedefs.items() if _is_shared(fixtures[-1])]
            if made:
                given = item.callspec.params if hasattr(item, "callspec") else {}
                parameters = (str(given[name]) for name in sorted(made) if name in given)
                item.add_marker(pytest.mark.xdist_group(" ".join((Path(item.path).stem, *parameters))))


def _is_shared(fixture: pytest.FixtureDef[object]) -> bool:
    return fixture.scope == "module" and not fixture._autouse

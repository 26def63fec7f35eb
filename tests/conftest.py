"""Tests that share what a fixture of their module makes go to one worker process, which makes it once."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "end_to_end"))

gc.disable()  # what is imported and collected stays: a fifth of the time of both


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A group for each module and each parameter of its fixtures, unless the test says which group it is of."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("xdist_group") is None:
            made = [name for name, fixtures in item._fixtureinfo.name2fixturedefs.items() if _is_shared(fixtures[-1])]
            if made:
                given = item.callspec.params if hasattr(item, "callspec") else {}
                parameters = (str(given[name]) for name in sorted(made) if name in given)
                item.add_marker(pytest.mark.xdist_group(" ".join((Path(item.path).stem, *parameters))))


def _is_shared(fixture: pytest.FixtureDef[object]) -> bool:
    return fixture.scope == "module" and not fixture._autouse

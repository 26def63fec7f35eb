"""Versions of the libraries that a run or a result was made with."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """Of Python and of each library; "not installed" where there is none, as of a toolkit that runs from its checkout."""
    return {"python": platform.python_version(), **{library: _version(library) for library in libraries}}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"

"""Versions are told of what is installed, and a toolkit that runs from its checkout is no error."""

from __future__ import annotations

import platform

import torch

from tbps.runs.versions import versions_of


def test_a_library_that_is_not_installed_is_told_so() -> None:
    found = versions_of(("torch", "no-such-library"))
    assert found == {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "no-such-library": "not installed",
    }

from __future__ import annotations

import gc
import sys

import pytest
from small_world import call_anew

from tbps.training.importing import importing

_SHOW = "gc.isenabled(), gc.get_freeze_count() > 0"
_SCRIPT = f"""
import gc
from tbps.training.importing import importing

with importing():
    print({_SHOW})
with importing(first=True):
    print({_SHOW})
    import torch
print({_SHOW})
with importing():
    print(gc.isenabled())
print({_SHOW}, any(one is torch for one in gc.get_objects()))
"""


def test_what_a_process_begins_with_is_never_searched() -> None:
    done = call_anew(sys.executable, "-c", _SCRIPT)
    seen = ["True False", "False False", "True True", "False", "True True False"]
    assert done.stdout.splitlines() == seen, done.stdout + done.stderr


def test_an_import_that_fails_leaves_the_search_on_and_one_that_is_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "freeze", lambda: None)  # what this process holds may be garbage
    with pytest.raises(ImportError), importing(first=True):
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with importing(first=True):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

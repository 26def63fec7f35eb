"""Distributed training toolkit for text-based person search.

model = tbps.load("runs/irra/cuhk-pedes")
model.embed_text(["a woman in a red coat"])      # (1, E) float32 unit rows
model.embed_images(["a.jpg", "b.jpg"])           # (2, E)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps.search.model import SearchModel

__all__ = ["load"]


def load(source: str | Path) -> SearchModel:
    """The trained model of a run folder, of what `tbps export` wrote, or of `hf:NAMESPACE/NAME`, on a GPU if there is one.

    ValueError says in one sentence why it cannot be opened.
    """
    from tbps.finished import load_model

    return load_model(source)

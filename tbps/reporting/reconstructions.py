"""Pictures of masked image modelling: original, what the encoder saw, and what the decoder made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps.reporting.thumbnail import thumbnail
from tbps.runs.atomic_file import write_json

HEIGHT_PX = 224
FILE = "reconstructions"
"""Of the file, before the name of the evaluation that it belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reconstruction:
    """One image with its caption; all three pictures (height, width, 3) uint8 RGB."""

    caption: str
    original_HWC: NDArray[np.uint8]
    masked_HWC: NDArray[np.uint8]
    reconstruction_HWC: NDArray[np.uint8]


def write_reconstructions(run_folder: Path, name: str, reconstructions: Sequence[Reconstruction]) -> Path:
    """Write `report/reconstructions-<name>.json`, which a later report shows."""
    rows = [
        {
            "caption": item.caption,
            "original": thumbnail(item.original_HWC, height_px=HEIGHT_PX),
            "masked": thumbnail(item.masked_HWC, height_px=HEIGHT_PX),
            "reconstruction": thumbnail(item.reconstruction_HWC, height_px=HEIGHT_PX),
        }
        for item in reconstructions
    ]
    file = run_folder / "report" / f"{FILE}-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, rows)
    return file

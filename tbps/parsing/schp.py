"""A folder of maps that SCHP (Self-Correction for Human Parsing) has written, as a parser: they are taken as they are.

Its tool saves a PNG of mode P for each image, as large as the image, whose pixel is the label; the palette only colours it.
Source: GoGoDuck912/Self-Correction-Human-Parsing: simple_extractor.py.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import LabelSetName
from tbps.data.label_maps import check_size, decode_map
from tbps.data.label_sets import LABEL_SETS
from tbps.data.parsing_cache import Manifest


class SchpMaps:
    """Palette PNGs: of the image's path with the ending png, or, as SCHP's own tool writes them, all in one folder."""

    def __init__(self, folder: Path, label_set: LabelSetName, image_paths: Sequence[str]) -> None:
        """ValueError: there is no map of an image, or one might be of several images."""
        self._label_set = LABEL_SETS[label_set]
        self._files = _find(folder, image_paths)
        digest = hashlib.sha256()
        for image_path in sorted(self._files):
            digest.update(f"{image_path}\n".encode())
            digest.update(hashlib.sha256(self._files[image_path].read_bytes()).digest())
        self.manifest = Manifest(label_set=label_set, parser=f"schp-{label_set}", parser_sha256=digest.hexdigest())

    def prepare(self, image_path: str, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The map of the image. ValueError: of another size, in colours, or with labels of another set."""
        file = self._files[image_path]
        try:
            labels_HW = decode_map(file.read_bytes(), self._label_set)
            check_size(labels_HW, (image_HWC.shape[0], image_HWC.shape[1]))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return labels_HW.numpy()

    def parse(self, prepared: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """See `Parser`."""
        return list(prepared)


def _find(folder: Path, image_paths: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, expected one of SCHP's maps; give it as in schp-atr:FOLDER")
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}
    same_name = Counter(PurePosixPath(path).stem for path in image_paths)
    found, missing = {}, []
    for image_path in image_paths:
        stem = PurePosixPath(image_path).stem
        own = PurePosixPath(image_path).with_suffix(".png").as_posix()
        # SCHP's tool cuts four characters off whatever the ending is: of 0001.jpeg it writes 0001..png.
        names = (f"{stem}.png", f"{PurePosixPath(image_path).name[:-4]}.png")
        alone = next((name for name in names if name in there), None)
        if own in there:
            found[image_path] = there[own]
        elif alone is None:
            missing.append(image_path)
        elif same_name[stem] == 1:
            found[image_path] = there[alone]
        else:
            raise ValueError(
                f"{there[alone]} may be the map of {same_name[stem]} images of that name, one of them {image_path}; put the"
                f" maps into the images' folders: {folder / own}"
            )
    if missing:
        others = f" (nor of {len(missing) - 1:,} others)" if len(missing) > 1 else ""
        own = PurePosixPath(missing[0]).with_suffix(".png").as_posix()
        raise ValueError(f"{folder} holds no map of image {missing[0]}{others}, expected {own} there; let SCHP write it")
    return found

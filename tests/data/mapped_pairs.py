"""Batches of a small world with parsing maps, loaded and turned into views, for the tests of fields and label maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_folder import NEEDS, make_data

from tbps.config.data import Augmentation, Data
from tbps.config.needs import Needs
from tbps.data.batch import Batch, HostBatch
from tbps.data.label_maps import map_path
from tbps.data.loader import make_loader
from tbps.data.pairs import open_pairs
from tbps.data.views import make_views
from tbps.text.captions import CaptionEncoder

IMAGE_PX = (96, 32)


def asking(*fields: str, **changes: Any) -> Needs:
    """What a method needs that asks for these fields."""
    return dataclasses.replace(NEEDS, fields=fields, **changes)


def load(data: Data, encoder: CaptionEncoder, needs: Needs, **options: Any) -> list[tuple[HostBatch, Batch]]:
    """Three batches, as the loader brings them and as a method reads them."""
    loader = make_loader(open_pairs(data), encoder, data, needs, seed=7, start_step=0, num_steps=3, **options)
    return [(host, make_views(host, torch.device("cpu"), pixels=data.pixels, group_pairs=2)) for host in loader]


def data_of(root: Path, augmentations: Sequence[Augmentation] = ("flip",), **changes: Any) -> Data:
    """Settings for an RSTPReid whose images are as large as those of the world."""
    return make_data(root, "rstpreid", **{"image_px": IMAGE_PX, "augmentations": tuple(augmentations), **changes})


def map_file(root: Path, key: str) -> Path:
    """Where the parsing map of a pair lies."""
    return root / map_path(key.rsplit("#", 1)[0], "atr")

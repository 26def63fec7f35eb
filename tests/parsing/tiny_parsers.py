"""Real tiny segmentation models of random weights, and `tbps parse` over a small world."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ready_python import Ready
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from tbps.config.data import LabelSetName
from tbps.data.label_sets import ATR, LABEL_SETS

IMAGE_PX = (48, 16)
REPOSITORY = Path(__file__).parents[2]
AS_PUBLISHED = tuple(label.capitalize() for label in ATR.labels)
"""Labels of ATR in the spelling of the SegFormers of clothes."""


def write_model(folder: Path, labels: Sequence[str] = AS_PUBLISHED, *, seed: int = 5, processor: bool = True) -> Path:
    """A SegFormer of 10,000 parameters with large random weights, so that its maps hold several labels."""
    torch.manual_seed(seed)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    if processor:
        SegformerImageProcessor(size={"height": 64, "width": 32}).save_pretrained(folder)
    return folder


def maps_of(root: Path) -> dict[str, bytes]:
    """Every file below `parsing`, hidden ones too, by its path."""
    folder = root / "parsing"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command_of(root: Path, parser: Path | str, *more: str) -> list[str]:
    """`tbps parse` as words behind `tbps`."""
    return ["parse", str(root), "--benchmark", "rstpreid", "--parser", str(parser), "--batch-images", "3", *more]


def start_parse(words: Sequence[str], *launcher: str, said: Path) -> Ready:
    """The command in a process of its own, or in those of a launcher; `said`: a folder for what it prints."""
    started = [sys.executable, *(launcher or ("-m",)), *(("-m",) if launcher else ()), "tbps.command", *words]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return Ready(started, folder=REPOSITORY, variables=surroundings, output=said / "output", errors=said / "errors")


def palette_of_schp(num_labels: int) -> list[int]:
    """Colours by the bits of a label, as SCHP's tool gives its PNGs."""
    palette = [0] * (num_labels * 3)
    for label in range(num_labels):
        rest, place = label, 0
        while rest:
            for channel in range(3):
                palette[label * 3 + channel] |= ((rest >> channel) & 1) << (7 - place)
            rest, place = rest >> 3, place + 1
    return palette


def write_schp(
    folder: Path, image_paths: Sequence[str], label_set: LabelSetName, *, flat: bool, image_px: tuple[int, int] = IMAGE_PX
) -> dict[str, Any]:
    """A palette PNG for each image, as SCHP's `simple_extractor.py` saves them; the labels by image."""
    rng, labels = np.random.default_rng(1), {}
    num_labels = len(LABEL_SETS[label_set])
    for path in image_paths:
        labels[path] = rng.integers(0, num_labels, image_px).astype(np.uint8)
        image = Image.fromarray(labels[path])
        image.putpalette(palette_of_schp(num_labels))
        file = folder / (Path(path).name if flat else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file.with_suffix(".png"))
    return labels

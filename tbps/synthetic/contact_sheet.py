"""A picture of a world: rows of images of one identity each, with its number and a caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tbps.config.data import Benchmark
from tbps.data.annotations import Split, read_annotations
from tbps.data.image_files import ImageFiles
from tbps.data.label_maps import map_path

MARGIN_PX = 6
CAPTION_PX = 330
FONT_PX = 13


def contact_sheet(
    root: Path,
    out_path: Path,
    *,
    benchmark: Benchmark,
    split: str = "train",
    num_identities: int = 12,
    images_per_identity: int = 3,
    columns: int = 2,
    image_height_px: int = 240,
    with_parsing: bool = False,
) -> Path:
    """Write a PNG of the first `num_identities` of a split; returns `out_path`.

    Any data set that `read_annotations` reads will do; `with_parsing` sets each image's parsing map of ATR beside it.
    ValueError: an image or a map is not there.
    """
    pairs = read_annotations(root, benchmark).split(split)
    shown = _rows(pairs, num_identities, images_per_identity)
    blocks = [_block(root, benchmark, pairs, images, images_per_identity, image_height_px, with_parsing) for images in shown]
    width, height = blocks[0].size
    lines = -(-len(blocks) // columns)
    sheet = Image.new("RGB", (width * columns, height * lines), "white")
    for number, block in enumerate(blocks):
        sheet.paste(block, ((number % columns) * width, (number // columns) * height))
    out_path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_path)
    return out_path


def _rows(pairs: Split, num_identities: int, images_per_identity: int) -> list[list[int]]:
    """Image numbers of the first identities."""
    rows: dict[int, list[int]] = {}
    for image, identity in enumerate(pairs.image_identity_I.tolist()):
        if identity < num_identities and len(rows.setdefault(identity, [])) < images_per_identity:
            rows[identity].append(image)
    return [rows[identity] for identity in sorted(rows)]


def _block(
    root: Path,
    benchmark: Benchmark,
    pairs: Split,
    images: Sequence[int],
    places: int,
    height: int,
    with_parsing: bool,
) -> Image.Image:
    """One identity: its images from left to right, then its number and the first caption of each image."""
    pictures = [picture for image in images for picture in _pictures(root, benchmark, pairs.image_path[image], with_parsing)]
    scaled = [
        picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.NEAREST)
        for picture in pictures
    ]
    cell = max(picture.width for picture in scaled) + MARGIN_PX
    captions_from = cell * places * (2 if with_parsing else 1) + MARGIN_PX
    block = Image.new("RGB", (captions_from + CAPTION_PX, height + 2 * MARGIN_PX), "white")
    for place, picture in enumerate(scaled):
        block.paste(picture, (MARGIN_PX + place * cell, MARGIN_PX))
    captions: dict[int, str] = {}
    for pair, image in enumerate(pairs.image_N.tolist()):
        if image in images:
            captions.setdefault(image, pairs.caption[pair])
        elif image > max(images):
            break
    text = [f"identity {pairs.image_identity_I[images[0]]}"]
    for caption in captions.values():
        text += textwrap.wrap(caption, width=CAPTION_PX // 7) + [""]
    draw = ImageDraw.Draw(block)
    room = block.height // (FONT_PX + 6)
    draw.text((captions_from, MARGIN_PX), "\n".join(text[:room]), fill="black", font=ImageFont.load_default(FONT_PX))
    return block


def _pictures(root: Path, benchmark: Benchmark, path: str, with_parsing: bool) -> list[Image.Image]:
    """The image and, if asked for, its parsing map in its palette's colours."""
    try:
        file = ImageFiles(root, benchmark).find(path)
    except ValueError as error:
        raise ValueError(f"{error}; write the data set again or download it again") from error
    with Image.open(file) as image:
        pictures = [image.convert("RGB")]
    if with_parsing:
        parsing_file = root / map_path(path, "atr")
        if not parsing_file.is_file():
            raise ValueError(f"{root} has no parsing map of {path}, expected {parsing_file}; write them first")
        with Image.open(parsing_file) as labels:
            pictures.append(labels.convert("RGB"))
    return pictures

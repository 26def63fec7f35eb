"""Data sets of a few small images in the five published formats, written by hand for the tests of this folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tbps.config.data import Benchmark, Captioning, Data
from tbps.config.needs import Draw, Needs, Text
from tbps.text.captions import CaptionEncoder
from tbps.text.word_pieces import open_word_pieces, train_vocabulary

COLOURS = ("red", "green", "blue", "white", "black", "grey", "brown", "yellow")
DRAWS = (Draw(name="negatives", numbers=2), Draw(name="mlm", per="token", numbers=4), Draw(name="mae", numbers=6))
NEEDS = Needs(text=Text(size=50, max_tokens=80), second_view=True, weak_positives=True, draws=DRAWS)
MAIN_FILE = {
    "cuhk-pedes": "reid_raw.json",
    "icfg-pedes": "ICFG-PEDES.json",
    "rstpreid": "data_captions.json",
    "mals": "gene_attrs/g_c_g_a_0_attrs.json",
    "coco": "dataset_coco.json",
}


def jpeg_bytes(number: int, *, height: int = 48, width: int = 16, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A gradient with noise, different for each number."""
    rng = np.random.default_rng(number)
    slope = np.linspace(0, 150, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    pixels = (slope + rng.integers(0, 45, (height, width, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return file.getvalue()


def caption(number: int, which: int) -> str:
    """A sentence that names image and caption."""
    return f"A man in a {COLOURS[number % 8]} shirt, {COLOURS[(number // 8 + which) % 8]} shoes; number {number} of {which}."


def write_folder(
    root: Path, benchmark: Benchmark, *, num_identities: int = 6, images_each: int = 2, captions_each: int = 2
) -> list[dict[str, Any]]:
    """Write images and annotations; the last identity is test (not for MALS). Returns the rows."""
    rows: list[dict[str, Any]] = []
    path_field = "img_path" if benchmark == "rstpreid" else "file_path"
    first_id = 1 if benchmark == "cuhk-pedes" else 0
    for number in range(num_identities * images_each):
        identity = number // images_each
        name = f"cam_{number % 2}/{identity:04d}_{number}.jpg"
        if benchmark == "mals":
            name = f"gene_crop/c_g_a_0/{number}.jpg"
            label = [1, 0, -1] * 9
            rows.append({"image": name, "caption": caption(number, 0), "image_id": f"c_g_a_0_{number}", "label": label})
        elif benchmark == "coco":
            name = f"val2014/COCO_val2014_{number:012d}.jpg" if number % 4 == 0 else f"train2014/{number}.jpg"
            rows.append(coco_row(name, number, split=coco_split(number, num_identities * images_each)))
        else:
            split = "test" if identity == num_identities - 1 else "train"
            sentences = [caption(number, which) for which in range(captions_each)]
            rows.append({"split": split, "captions": sentences, path_field: name, "id": identity + first_id})
        file = root / name if benchmark in ("mals", "coco") else root / "imgs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg_bytes(number))
    annotation = root / MAIN_FILE[benchmark]
    annotation.parent.mkdir(exist_ok=True)
    whole = {"images": rows, "dataset": "coco"} if benchmark == "coco" else rows
    annotation.write_text(json.dumps(whole), encoding="utf-8")
    return rows


def coco_split(number: int, num_images: int) -> str:
    """Train first, of it every fourth as "restval"; then val, and test last."""
    if number >= num_images - 2:
        return "val" if number == num_images - 2 else "test"
    return "train" if number % 4 else "restval"


def coco_row(name: str, number: int, *, split: str) -> dict[str, Any]:
    """An image of dataset_coco.json with two captions."""
    folder, _, filename = name.partition("/")
    texts = [caption(number, which) for which in range(2)]
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": 2 * number + which}
        for which, text in enumerate(texts)
    ]
    return {
        "filepath": folder,
        "sentids": [2 * number, 2 * number + 1],
        "filename": filename,
        "imgid": number,
        "split": split,
        "sentences": sentences,
        "cocoid": number,
    }


def make_encoder(folder: Path) -> CaptionEncoder:
    """An encoder whose vocabulary is learned from the captions above."""
    path = folder / "vocab.txt"
    train_vocabulary([caption(number, which) for number in range(64) for which in range(2)], size=120, path=path)
    return CaptionEncoder(open_word_pieces(str(path)), max_words=50, max_tokens=50, cleaning="space", chunker=None)


def make_data(root: Path | str, benchmark: Benchmark = "cuhk-pedes", **changes: Any) -> Data:
    """Settings for 32 x 16 images, batches of 8 in groups of 2."""
    values: dict[str, Any] = {
        "benchmark": benchmark,
        "root": str(root),
        "captioning": Captioning(vocabulary="", max_words=50, max_tokens=50),
        "image_px": (32, 16),
        "batch_pairs": 8,
        "group_pairs": 2,
        "workers": 0,
        "weak_positive_probability": 0.5,
    }
    return Data(**{**values, **changes})

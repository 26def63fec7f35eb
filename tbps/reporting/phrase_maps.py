"""What LAIP's phrases look at, drawn over the image, for the report (as the paper's Fig. 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps.config.data import Pixels
from tbps.data.pairs import EvaluationSet
from tbps.methods.albef.laip import LaipMethod
from tbps.reporting.shown_pairs import read_pairs, spread_queries, text_of
from tbps.reporting.thumbnail import thumbnail
from tbps.runs.atomic_file import write_json
from tbps.text.captions import CaptionEncoder

FILE = "phrase_maps"
"""Of the file, before the name of the evaluation that it belongs to."""
HEIGHT_PX = 192
NUM_QUERIES, NUM_PHRASES = 6, 4
HEAT = np.array((255, 64, 0), np.float32)
TITLES = {"forward": "forward", "backward": "backward", "weights": "bidirectional"}


def write_phrase_maps(
    run_folder: Path,
    name: str,
    method: LaipMethod,
    evaluation_set: EvaluationSet,
    encoder: CaptionEncoder,
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
) -> Path:
    """Write `report/phrase_maps-<name>.json` about queries spread over the split; a later report shows it.

    encoder: one that finds chunks. ValueError names an image or a caption that cannot be read.
    """
    queries = spread_queries(evaluation_set, NUM_QUERIES)
    shown = read_pairs(evaluation_set, encoder, queries, image_px=image_px, pixels=pixels)
    method.eval()
    found = method.phrase_maps(shown.images(method.device), shown.captions)
    table, grid = found.table, method.online.image_encoder.grid
    maps = {title: found.maps_MN[title].cpu().numpy().reshape(-1, *grid) for title in found.maps_MN}
    rows = []
    for caption, text in enumerate(shown.texts):
        image_HWC = shown.pixels_BCHW[caption].permute(1, 2, 0).numpy()
        phrases = [
            {
                "words": text_of(
                    [
                        encoder.tokeniser.word_of(int(token))
                        for token in table.captions.token_ids_BL[phrase, 1 : table.captions.lengths[phrase]]
                    ]
                ),
                "masked": encoder.tokeniser.word_of(int(table.label_M[phrase])),
                "maps": {
                    TITLES[title]: thumbnail(heated(image_HWC, maps[title][phrase]), height_px=HEIGHT_PX) for title in maps
                },
            }
            for phrase in np.flatnonzero((table.caption_M == caption) & (table.weight_M > 0))[:NUM_PHRASES]
        ]
        picture = thumbnail(image_HWC, height_px=HEIGHT_PX)
        rows.append({"key": shown.keys[caption], "caption": text, "picture": picture, "phrases": phrases})
    file = run_folder / "report" / f"{FILE}-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"of": name, "layer": method.attention_layer, "attention": method.attention, "captions": rows})
    return file


def heated(image_HWC: NDArray[np.uint8], weight_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image in grey, red where weights are large: full red is the largest of the map, grey the smallest, and a map of
    equal weights. weight_hw: a grid of patches."""
    height, width = image_HWC.shape[:2]
    least, most = float(weight_hw.min()), float(weight_hw.max())
    differs = most - least > 1e-5 * most
    scaled = Image.fromarray(((weight_hw - least) / (most - least) if differs else 0 * weight_hw).astype(np.float32))
    heat_HW1 = np.asarray(scaled.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)[..., None]
    grey_HW1 = image_HWC.astype(np.float32).mean(2, keepdims=True)
    return (grey_HW1 * (1 - 0.7 * heat_HW1) + HEAT * (0.7 * heat_HW1)).round().astype(np.uint8)

"""A test split of a few people in RSTPReid's format, and methods of the real classes small enough for one core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tbps.config.data import Pixels
from tbps.config.encoders import Bert, Vit
from tbps.config.methods.albef import Albef
from tbps.config.methods.mars import Mars
from tbps.data.annotations import read_annotations
from tbps.data.pairs import EvaluationSet, FolderPairs
from tbps.data.shown_pairs import ShownSplit
from tbps.methods.registry import build_method
from tbps.text.captions import CaptionEncoder
from tbps.text.word_pieces import open_word_pieces, train_vocabulary

IMAGE_PX = (32, 16)
COLOURS = ("red", "green", "blue", "white", "black", "grey", "brown", "yellow", "pink")


def caption(identity: int, image: int, which: int) -> str:
    colours = [COLOURS[(identity * step + shift) % 9] for step, shift in ((1, 0), (2, image), (4, which))]
    return "A person in a {} shirt and {} trousers with {} shoes.".format(*colours) + " Walks away." * (image % 3)


def write_split(root: Path, *, num_identities: int = 7, images_each: int = 3) -> EvaluationSet:
    """Images and annotations; 2 captions for each image, all of the test split."""
    rng = np.random.default_rng(0)
    rows = []
    for identity in range(num_identities):
        for image in range(images_each):
            name = f"{identity:04d}_{image}.png"
            base = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
            (root / "imgs").mkdir(exist_ok=True)
            Image.fromarray(base).resize((16, 32)).save(root / "imgs" / name)
            captions = [caption(identity, image, which) for which in range(2)]
            rows.append({"id": identity, "img_path": name, "captions": captions, "split": "test"})
    (root / "data_captions.json").write_text(json.dumps(rows), encoding="utf-8")
    split = read_annotations(root, "rstpreid").split("test")
    return EvaluationSet(FolderPairs(root, "rstpreid", split))


def shown_split(evaluation_set: EvaluationSet, encoder: CaptionEncoder) -> ShownSplit:
    """The split as a method reads it for its exhibits."""
    return ShownSplit(evaluation_set=evaluation_set, encoder=encoder, image_px=IMAGE_PX, pixels=Pixels())


def small_encoder(root: Path, *, max_tokens: int = 24) -> CaptionEncoder:
    file = root / "vocab.txt"
    if not file.exists():
        train_vocabulary([caption(i, j, k) for i in range(9) for j in range(3) for k in range(2)], size=90, path=file)
    vocabulary = open_word_pieces(str(file))
    return CaptionEncoder(vocabulary, max_words=50, max_tokens=max_tokens, cleaning="space", chunker=None)


def small_method(encoder: CaptionEncoder, *, kind: Any = Albef, **changes: Any) -> Any:
    """kind: the method's configuration, of which `changes` override values."""
    torch.manual_seed(0)
    bert = Bert(
        width=32,
        layers=4,
        heads=2,
        intermediate=64,
        vocabulary_size=encoder.tokeniser.size,
        max_positions=32,
        fusion_layer=2,
        full_cross_attention=kind is Mars,
        cls_id=encoder.tokeniser.start_id,
        mask_id=encoder.tokeniser.mask_id,
    )
    vit = Vit(width=32, depth=2, heads=2, patch_px=8)
    return build_method(kind(vit=vit, bert=bert, projection=16, queue_pairs=64, **changes), image_px=IMAGE_PX)

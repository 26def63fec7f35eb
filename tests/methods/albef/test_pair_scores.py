"""Scores of many pairs at once equal the cross encoder on each pair alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_methods import BERT, MARS, RASA, build, make_step

from tbps.config.methods.mars import Mars
from tbps.config.methods.rasa import Rasa
from tbps.methods.albef.cross_calls import cross_encode, sequences

ONE_LAYER = replace(RASA, bert=replace(BERT, fusion_layer=2))


@pytest.mark.parametrize("config", [RASA, MARS, ONE_LAYER], ids=["rasa", "mars", "one cross layer"])
@torch.no_grad()
def test_scores_equal_pairs_one_by_one(config: Rasa | Mars) -> None:
    method = build(config).eval()
    batch, _ = make_step(config)
    text = method.online.text_encoder
    tokens = method.embed_images(batch.image_BCHW).tokens_IPD
    captions = method.pack_captions(batch.own)
    hidden = method.embed_captions(batch.own).hidden_ND
    rng = np.random.default_rng(0)
    image, caption = np.concatenate([np.arange(8), rng.integers(0, 8, 20)]), rng.integers(0, 8, 28)
    found = method.matcher().prepare(batch.own, hidden)(image_IPD=tokens, image_M=image, caption_M=caption)
    for number in range(28):
        shown = sequences(captions, offset=0, image=np.zeros(1, np.int64), caption=caption[number : number + 1])
        own_image = tokens[image[number] : image[number] + 1]
        alone = cross_encode(text, ids_N=captions.token_id_N, hidden_ND=hidden, image_IPD=own_image, shown=shown)
        expected = method.itm_head(alone.hidden_ND[alone.packing.first_S])[0, 1]
        assert found[number].item() == pytest.approx(expected.item(), abs=1e-5)

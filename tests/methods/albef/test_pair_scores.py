"""Scores of many pairs at once equal the cross encoder on each pair alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_methods import BERT, MARS, RASA, build, make_step

from tbps.config.methods.mars import Mars
from tbps.config.methods.rasa import Rasa
from tbps.methods.albef import pair_scores
from tbps.methods.albef.cross_calls import cross_encode, sequences
from tbps.methods.albef.pair_calls import CallSizes
from tbps.nn.lora import frozen_to

ONE_LAYER = replace(RASA, bert=replace(BERT, fusion_layer=2))


@pytest.mark.parametrize("most_tokens", [4096, 60], ids=["", "little memory"])
@pytest.mark.parametrize("config", [RASA, MARS, ONE_LAYER], ids=["rasa", "mars", "one cross layer"])
@torch.no_grad()
def test_scores_equal_pairs_one_by_one(config: Rasa | Mars, most_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = CallSizes(images=8, free_rows=0, most_tokens=most_tokens)
    monkeypatch.setattr(pair_scores, "call_sizes", lambda device_type, *, width: sizes)
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
        expected = method.itm_head(alone.cls_states(slice(1)))[0, 1]
        assert found[number].item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_bfloat16_ties_no_scores() -> None:
    """As all heads in bfloat16 did: of its 8 bits, many candidates of a query share one number."""
    method, (batch, _) = build(MARS).eval(), make_step(MARS)
    image, caption = np.arange(8).repeat(8), np.tile(np.arange(8), 8)

    def scores(*, bf16: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            tokens, hidden = method.embed_images(batch.image_BCHW).tokens_IPD, method.embed_captions(batch.own).hidden_ND
            found: torch.Tensor = method.matcher().prepare(batch.own, hidden)(
                image_IPD=tokens, image_M=image, caption_M=caption
            )
        return found

    exact, found = scores(bf16=False), scores(bf16=True)
    assert found.dtype == torch.float32 and len(found.unique()) == len(exact.unique()) == 64
    assert 1e-5 < (found - exact).abs().max() < 0.1
    frozen_to([method.online.text_encoder.requires_grad_(False)], torch.bfloat16)
    assert (scores(bf16=True) - exact).abs().max() < 0.1, "frozen weights in bfloat16 compute under autocast alone"

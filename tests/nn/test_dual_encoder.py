"""Features of the dual encoder: unit rows in float32, of the first token only."""

from __future__ import annotations

import torch
from tiny_encoders import shaken, tiny_bert, tiny_vit

from tbps.nn.dual_encoder import DualEncoder


def encoder(*, word_head: bool) -> DualEncoder:
    return shaken(lambda: DualEncoder(image_encoder=tiny_vit(), text_encoder=tiny_bert(), projection=6, word_head=word_head))


def test_features_are_unit_rows_in_float32() -> None:
    model = encoder(word_head=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, caption = model.image_feature(torch.randn(3, 9, 12)), model.caption_feature(torch.randn(4, 16))
    for feature, rows in ((image, 3), (caption, 4)):
        assert feature.shape == (rows, 6)
        assert feature.dtype == torch.float32
        assert torch.allclose(feature.norm(dim=1), torch.ones(rows), atol=1e-6)


def test_an_image_feature_reads_cls_only() -> None:
    model, token = encoder(word_head=False), torch.randn(3, 9, 12)
    changed = token.clone()
    changed[:, 1:] = 0
    assert torch.equal(model.image_feature(token), model.image_feature(changed))


def test_word_logits_use_the_word_embeddings() -> None:
    model = encoder(word_head=True)
    hidden = torch.randn(2, 16)
    before = model.word_logits(hidden)
    with torch.no_grad():
        model.text_encoder.words.weight[5] += 1
    changed = (model.word_logits(hidden) != before).any(0)
    assert changed.nonzero().flatten().tolist() == [5]
    assert encoder(word_head=False).word_head is None

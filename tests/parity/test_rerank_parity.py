"""Coarse features and re-ranking scores of RaSa, MARS and ALBEF on the recorded toy gallery."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded_step import Recorded, build, close
from recordings import recording, settings

from tbps.evaluation.rerank import rerank_scores
from tbps.text.token_batch import Captions

DEPTHS = settings("rerank_A").get("settings", {}).get("k", {})
"""For each system, how many candidates are re-ranked."""


def gallery(name: str) -> tuple[Any, Captions, torch.Tensor, dict[str, torch.Tensor]]:
    _, recorded = recording("rerank_A")
    method: Any = build(Recorded(name)).eval()
    ids, mask = recorded["inputs.text.input_ids"], recorded["inputs.text.attention_mask"]
    captions = Captions(token_ids_BL=ids, lengths=tuple(mask.sum(1).tolist()), chunk_id_BL=torch.zeros_like(ids))
    return method, captions, recorded["inputs.images"], recorded


@pytest.mark.parametrize("name", DEPTHS)
def test_coarse_features(name: str) -> None:
    method, captions, images, recorded = gallery(name)
    embedded_images, embedded_captions = method.embed_images(images), method.embed_captions(captions)
    close(embedded_images.feature_IE, recorded[f"expected.{name}.image_embeds"], "image features")
    close(embedded_captions.feature_QE, recorded[f"expected.{name}.text_embeds"], "caption features")


@pytest.mark.parametrize("block_images", [1, 5, 64])
@pytest.mark.parametrize(("name", "k"), [(name, k) for name in DEPTHS if name != "albef" for k in DEPTHS[name]])
def test_matching_scores(name: str, k: int, block_images: int) -> None:
    method, captions, images, recorded = gallery(name)
    candidate_QK = recorded[f"expected.{name}.k{k}.topk_idx"]
    caption_M = torch.arange(len(candidate_QK)).repeat_interleave(k)
    hidden = method.embed_captions(captions).hidden_ND
    tokens = method.embed_images(images).tokens_IPD
    score_M = rerank_scores(
        method.matcher(), tokens, captions, hidden, candidate_QK.flatten(), caption_M, block_images=block_images
    )
    close(score_M.view(-1, k), recorded[f"expected.{name}.k{k}.itm_scores"], "scores")


@pytest.mark.parametrize("k", DEPTHS.get("albef", []))
def test_albef_scores_both_directions(k: int) -> None:
    method, captions, images, recorded = gallery("albef")
    hidden, tokens = method.embed_captions(captions).hidden_ND, method.embed_images(images).tokens_IPD
    for name, transposed in (("t2i", False), ("i2t", True)):
        expected = recorded[f"expected.albef.k{k}.score_matrix_{name}"]
        row, column = (expected > -100).nonzero(as_tuple=True)
        image_M, caption_M = (row, column) if transposed else (column, row)
        score_M = rerank_scores(method.matcher(), tokens, captions, hidden, image_M, caption_M)
        close(score_M, expected[row, column], name)

"""Evaluation asks for a matcher and knows no class: methods with a matcher of their own, and with none."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_retrieval import IMAGE_PX, small_encoder, write_split
from torch import Tensor, nn

from recipes import albef
from tbps.config.data import Pixels
from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef import Albef
from tbps.config.needs import Needs
from tbps.config.run import Run
from tbps.data.loader import load_gallery
from tbps.data.views import normalise_pixels
from tbps.evaluation.evaluate import Evaluated, announce_ranking, evaluate
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, Method, PairScorer
from tbps.nn.packing import Index
from tbps.text.captions import make_captions
from tbps.text.token_batch import Captions

CONFIG = Evaluation(rerank_k=5, batch_images=4, batch_captions=8)


class Bags(Method):
    """A dual encoder: mean colours of an image, mean of a caption's words. Its parts are told apart by `matcher` alone."""

    def __init__(self, *, matches: bool = False, gives_tokens: bool = True) -> None:
        super().__init__(weights={})
        torch.manual_seed(0)
        self.matches, self.gives_tokens = matches, gives_tokens
        self.colours = nn.Linear(3, 8)
        self.words = nn.Embedding(200, 8)

    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        token_IPD = self.colours(image_BCHW.flatten(2).transpose(1, 2))
        feature_IE = nn.functional.normalize(token_IPD.mean(1), dim=1)
        return EmbeddedImages(feature_IE=feature_IE, tokens_IPD=token_IPD if self.gives_tokens else None)

    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        states = [self.words(ids[:length]) for ids, length in zip(captions.token_ids_BL, captions.lengths, strict=True)]
        feature_QE = nn.functional.normalize(torch.stack([state.mean(0) for state in states]), dim=1)
        return EmbeddedCaptions(feature_QE=feature_QE, hidden_ND=torch.cat(states))

    def matcher(self) -> LastWord | None:
        return LastWord() if self.matches else None


@dataclass
class LastWord:
    """Scores a pair by its caption's last word and its image's brightest place."""

    block_images: int = 3

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def prepare(self, captions: Captions, hidden_ND: Tensor | None) -> PairScorer:
        assert hidden_ND is not None
        last_QD = hidden_ND[torch.tensor(captions.lengths).cumsum(0) - 1]

        def score(*, image_IPD: Tensor, image_M: Index, caption_M: Index) -> Tensor:
            assert len(image_IPD) <= self.block_images and set(image_M) == set(range(len(image_IPD)))
            return (image_IPD.amax(1)[image_M] * last_QD[caption_M]).sum(1)

        return score


def run(root: Path, method: Any, **options: Any) -> Evaluated:
    options = {"image_px": IMAGE_PX, "pixels": Pixels(), "device": torch.device("cpu"), **options}
    return evaluate(method, write_split(root), small_encoder(root), CONFIG, **options)


def test_candidates_are_ranked_by_the_score_that_the_method_gives(tmp_path: Path) -> None:
    method = Bags(matches=True)
    found = run(tmp_path, method, rerank_image_to_text=True)
    evaluation_set, encoder = write_split(tmp_path), small_encoder(tmp_path)
    captions = make_captions(encoder.encode_many([evaluation_set.query_caption(query) for query in range(42)], ["x"] * 42))
    last_Q = captions.token_ids_BL[torch.arange(42), torch.tensor(captions.lengths) - 1]
    pixels = Pixels()
    blocks = load_gallery(evaluation_set, range(21), image_px=IMAGE_PX, pixels=pixels, batch_images=21, workers=0)
    with torch.no_grad():
        tokens_GPD = method.embed_images(normalise_pixels(next(blocks), pixels)).tokens_IPD
        score_QG = method.words(last_Q) @ tokens_GPD.amax(1).T  # type: ignore[union-attr]
    for direction, score_AG in ((found.text_to_image, score_QG), (found.image_to_text, score_QG.T)):
        assert direction.num_candidates == 5
        score_AT = direction.shown.score_AT
        assert (score_AT[:, :5].diff() <= 0).all() and score_AT[:, 5:].isnan().all()
        torch.testing.assert_close(score_AT[:, :5], score_AG.gather(1, direction.shown.gallery_AT)[:, :5], atol=1e-5, rtol=0)


@pytest.mark.parametrize("gives_tokens", [True, False])
def test_without_a_matcher_images_are_ranked_by_similarity_which_is_said(
    gives_tokens: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = run(tmp_path, Bags(gives_tokens=gives_tokens), rerank_image_to_text=True)
    for direction in (found.text_to_image, found.image_to_text):
        assert direction.reranked is None and direction.num_candidates == 0
        assert direction.shown.score_AT.isnan().all()
    said = "Bags has no matcher that could re-rank 5 images of a caption: they are ranked by similarity alone"
    assert [record.message for record in caplog.records if "Bags" in record.message] == [said]
    caplog.clear()
    assert run(tmp_path, Bags(), rerank=False).text_to_image.coarse == found.text_to_image.coarse
    assert "Bags" not in caplog.text


def test_a_matcher_without_image_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Bags has a matcher and its embed_images gives no tokens_IPD, expected"):
        run(tmp_path, Bags(matches=True, gives_tokens=False))


class Unmatched(Albef):
    """Settings of a method that scores no pairs."""

    def needs(self, image_px: tuple[int, int]) -> Needs:
        return replace(Albef.needs(self, image_px), matcher=False)


def small_run(method: Albef, **evaluation: Any) -> Run:
    run = albef.tiny()
    return replace(run, method=method, evaluation=replace(run.evaluation, **evaluation))


@pytest.mark.parametrize(("method", "rerank_k", "said"), [(Unmatched(), 16, 1), (Unmatched(), 0, 0), (Albef(), 16, 0)])
def test_a_run_says_once_that_it_re_ranks_nothing(
    method: Albef, rerank_k: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = small_run(method, rerank_k=rerank_k)
    announce_ranking(run)
    assert caplog.text.count(f"so evaluation.rerank_k {rerank_k} re-ranks nothing: images are ranked by similarity") == said
    assert run.reranks == (type(method) is Albef)


def test_rows_of_captions_keep_every_field() -> None:
    whole = Captions(
        token_ids_BL=torch.arange(12).view(3, 4),
        lengths=(4, 2, 3),
        chunk_id_BL=torch.arange(12, 24).view(3, 4),
        chunk_weight_BC=torch.rand(3, 2),
        starts_BL=torch.rand(3, 4) > 0.5,
        vacuous_BL=torch.rand(3, 4) > 0.5,
    )
    part = whole.rows(range(1, 3))
    for field in fields(Captions):
        value, kept = getattr(whole, field.name), getattr(part, field.name)
        assert value is not None
        assert np.array_equal(np.asarray(value[1:3]), np.asarray(kept))
    assert (
        Captions(token_ids_BL=whole.token_ids_BL, lengths=(4, 2, 3), chunk_id_BL=whole.chunk_id_BL).rows(range(2)).vacuous_BL
        is None
    )

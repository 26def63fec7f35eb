"""The caption encoders that a run is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_folder import make_data, make_encoder, write_folder

from recipes import aga, albef, laip, mars, pretrain_coco, pretrain_mals, rasa
from tbps.config.run import Run
from tbps.data.opening import evaluation_encoder, training_encoder
from tbps.data.pairs import open_pairs
from tbps.training.distributed import Team


@pytest.mark.parametrize(("max_training_tokens", "expected"), [(0, 6), (9, 9), (512, None)])
def test_captions_have_a_cap_of_their_own_in_training(
    tmp_path: Path, max_training_tokens: int, expected: int | None
) -> None:
    """As in the official code with 512: word pieces are cut in evaluation only, words in both."""
    write_folder(tmp_path, "cuhk-pedes")
    vocabulary = make_encoder(tmp_path).tokeniser
    data = make_data(tmp_path)
    changes = replace(data.captioning, max_words=8, max_tokens=6, max_training_tokens=max_training_tokens)
    data = replace(data, captioning=changes)
    training = training_encoder(open_pairs(data), data, vocabulary, chunks=False, weigh_chunks=False, team=Team.current())
    evaluation = evaluation_encoder(data.captioning, vocabulary)
    caption = "aman abag ashoe ared ablue agreen awhite ablack and more"  # eight words of more pieces, two words too many
    whole = 1 + len(vocabulary.encode(" ".join(caption.split()[:8])).ids)
    assert whole > 9
    assert len(training.encode(caption, "key").token_ids) == (expected or whole)
    assert len(evaluation.encode(caption, "key").token_ids) == 6


@pytest.mark.parametrize(
    "recipe", [albef, rasa, mars, aga, laip, pretrain_mals, pretrain_coco], ids=lambda one: one.__name__
)
def test_the_papers_recipes_cut_no_word_pieces_in_training(recipe: object) -> None:
    others = ("tiny-rasa", "tiny-albef", "tiny-aptm", "tiny-irra", "aptm", "irra")  # small, or not of ALBEF's family
    runs: list[Run] = [make() for name, make in recipe.VARIANTS.items() if name not in ("tiny", *others)]  # type: ignore[attr-defined]
    assert runs and all(run.data.captioning.training_tokens == run.method.bert.max_positions for run in runs)

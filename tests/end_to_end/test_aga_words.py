"""A trained AGA masks semantically vacuous words less often than random masking does, and its report shows them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import World, run_recipe

from tbps.data.batch import Batch
from tbps.data.opening import training_encoder
from tbps.data.pairs import open_pairs
from tbps.methods.registry import build_method
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint
from tbps.text.captions import make_captions
from tbps.text.tokeniser import open_tokeniser
from tbps.training.distributed import Team

STEPS, CAPTIONS = 60, 100
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("trained aga")]  # trained once


def _batch(run_folder: Path) -> Batch:
    """100 training captions; attention needs no image."""
    run = RunFolder(run_folder).read_run()
    captioning, source = run.data.captioning, open_pairs(run.data)
    vocabulary = open_tokeniser(captioning, run.needs.text)
    encoder = training_encoder(
        source, run.data, vocabulary, chunks=False, weigh_chunks=False, mark_vacuous=True, team=Team.current()
    )
    own = make_captions([encoder.encode(source.caption(pair), source.key(pair)) for pair in range(CAPTIONS)])
    image_BCHW = torch.zeros(CAPTIONS, 3, *run.data.image_px)
    return Batch(
        image_BCHW=image_BCHW,
        second_image_BCHW=image_BCHW,
        own=own,
        paired=own,
        replaced_B=torch.zeros(CAPTIONS, dtype=torch.int64),
        identity_B=torch.arange(CAPTIONS),
        group_pairs=CAPTIONS,
        epoch=1.0,
    )


@pytest.fixture(scope="module")
def run_folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a trained run."""
    runs = tmp_path_factory.mktemp("runs")
    changes = ["--schedule.epochs", str(STEPS), "--evaluation.every-epochs", "0"]
    assert run_recipe("aga", "tiny", *world.overrides(runs, recipe="aga", max_steps=STEPS), *changes) == 0
    return runs / "aga" / "tiny"


def test_attention_leaves_vacuous_words_alone(run_folder: Path) -> None:
    run, batch = RunFolder(run_folder).read_run(), _batch(run_folder)
    method: Any = build_method(run.method, image_px=run.data.image_px)
    checkpoint.load_model(method, best_checkpoint(run_folder))
    text = method.eval().read_captions(batch, np.zeros(0, dtype=np.int64))
    expected_BL = text.probability.wait()
    ids_BL, vacuous_BL = (part[:, : expected_BL.shape[1]] for part in (batch.own.token_ids_BL, batch.own.vacuous_BL))  # type: ignore[index]
    is_word_BL = (ids_BL != 0) & (ids_BL != run.method.bert.cls_id)
    ratio = (expected_BL.sum() / is_word_BL.sum()).item()
    share = ((expected_BL * vacuous_BL).sum() / expected_BL.sum()).item()
    random_share = (vacuous_BL.sum() / is_word_BL.sum()).item()
    sys.stdout.write(
        f"masked: {100 * ratio:.1f} % of words;"
        f" vacuous among them: {100 * share:.1f} %, at random {100 * random_share:.1f} %\n"
    )
    assert 0.05 < ratio < 0.25
    assert share < 0.85 * random_share


def test_the_report_shows_masked_words_and_enriched_captions(run_folder: Path) -> None:
    """Of the 48 test captions, from the run folder alone."""
    found = json.loads((run_folder / "report/exhibits-final-cuhk-pedes-test.json").read_text())
    (exhibit,) = found["exhibits"]
    shared, counted, examples = exhibit["parts"]
    assert found["of"] == "final-cuhk-pedes-test" and exhibit["explanation"].startswith("48 captions")
    (_, ratio, _), (_, vacuous_share, random_vacuous_share) = [
        [cell.get("value") for cell in row] for row in shared["tables"][0]["rows"]
    ]
    assert 0.05 < ratio < 0.25 and vacuous_share < 0.85 * random_vacuous_share
    shares = [[row[2]["value"] / row[1]["value"] for row in part["rows"]] for part in counted["tables"]]
    assert shares[0] == sorted(shares[0], reverse=True) and shares[1] == sorted(shares[1])
    assert min(shares[0]) >= max(shares[1])
    captions = {pair: text.lower() for pair, text in _test_captions(run_folder)}
    page = (run_folder / "report/report.html").read_text()
    for card in examples["cards"]:
        picture, original, enriched = card["cells"]
        pair = picture["pictures"][0]["described"].removeprefix("the image of ")
        text = re.sub(r"\W+", " ", captions[pair])
        assert " ".join(word for word, _ in original["words"]) == text.strip()
        assert not any("##" in word for word, _ in original["words"])
        masked = [marked for _, marked in original["words"]]
        assert any(masked) and masked == [changed for _, changed in enriched["words"]]
        assert f"<small>enriched</small> {_marked(enriched['words'])}</p>" in page


def _test_captions(run_folder: Path) -> list[tuple[str, str]]:
    source = open_pairs(RunFolder(run_folder).read_run().data, "test")
    return [(source.key(pair), source.caption(pair)) for pair in range(len(source))]


def _marked(words: list[tuple[str, bool]]) -> str:
    return " ".join(f"<mark>{word}</mark>" if marked else word for word, marked in words)

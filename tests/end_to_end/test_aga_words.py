"""A trained AGA masks semantically vacuous words less often than random masking does, over 100 synthetic captions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import World, run_recipe

from tbps.data.assembly import open_vocabulary, training_encoder
from tbps.data.batch import Batch
from tbps.data.captions import make_captions
from tbps.data.pairs import open_pairs
from tbps.training import checkpoint
from tbps.training.run_folder import RunFolder
from tbps.training.selection import best_checkpoint

STEPS, CAPTIONS = 100, 100


def _batch(run_folder: Path) -> Batch:
    """100 training captions; attention needs no image."""
    run = RunFolder(run_folder).read_run()
    bert, captioning, source = run.method.bert, run.data.captioning, open_pairs(run.data)
    vocabulary = open_vocabulary(captioning, size=bert.vocabulary_size, cls_id=bert.cls_id, mask_id=bert.mask_id)
    encoder = training_encoder(
        source,
        captioning,
        vocabulary,
        chunks=False,
        weigh_chunks=False,
        mark_vacuous=True,
        cache=run_folder,
        on_main=lambda call: call(),
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


@pytest.mark.slow
def test_attention_leaves_vacuous_words_alone(world: World, tmp_path: Path) -> None:
    changes = ["--schedule.epochs", str(STEPS), "--evaluation.every-epochs", "0", "--evaluation.test", "False"]
    assert run_recipe("aga", "tiny", *world.overrides(tmp_path, recipe="aga", max_steps=STEPS), *changes) == 0
    run_folder = tmp_path / "aga" / "tiny"
    run, batch = RunFolder(run_folder).read_run(), _batch(run_folder)
    method: Any = run.method.build(image_px=run.data.image_px)
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

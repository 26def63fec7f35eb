"""What BiLMa shows in the report, against what the method itself says; nothing where there is nothing to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes import bilma
from tbps.config.methods.bilma import BilmaWeights
from tbps.config.run import Run
from tbps.data.annotations import read_annotations
from tbps.data.label_maps import decode_map, map_path
from tbps.data.label_sets import ATR
from tbps.data.opening import evaluation_encoder
from tbps.data.pairs import EvaluationSet, FolderPairs
from tbps.data.shown_pairs import ShownSplit
from tbps.methods.clip.bilma import BilmaMethod
from tbps.methods.clip.bilma_exhibits import NUM_COUNTED, NUM_SHOWN
from tbps.methods.exhibit import Number, Pictures, Text, Words
from tbps.methods.heat_map import heated
from tbps.methods.registry import build_method
from tbps.nn.clip_text import pack_captions
from tbps.nn.cross_modal_encoder import join
from tbps.synthetic.world import write_world
from tbps.text.tokeniser import open_tokeniser


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, benchmark="cuhk-pedes", num_identities=24, seed=1, workers=1, image_px=(64, 32), parsing=True)
    return folder


def shown_split(root: Path, run: Run) -> ShownSplit:
    tokeniser = open_tokeniser(run.data.captioning, run.needs.text)
    source = FolderPairs(root, "cuhk-pedes", read_annotations(root, "cuhk-pedes").split("train"))
    return ShownSplit(
        evaluation_set=EvaluationSet(source),
        encoder=evaluation_encoder(run.data.captioning, tokeniser),
        image_px=run.data.image_px,
        pixels=run.data.pixels,
    )


def build(run: Run) -> BilmaMethod:
    torch.manual_seed(0)
    method = build_method(run.method, image_px=run.data.image_px, num_identities=3).eval()
    assert isinstance(method, BilmaMethod)
    return method


def changed(**changes: Any) -> Run:
    run = bilma.tiny()
    return replace(run, method=replace(run.method, **changes))


def test_masked_patches_are_counted_and_answered_for(world: Path) -> None:
    run = bilma.tiny()
    method, shown = build(run), shown_split(world, run)
    parsing, patches, words = method.exhibits(shown)
    assert [one.title for one in (parsing, patches, words)] == [
        "Parsing maps",
        "Masked patches",
        "Which patches answer for a masked word",
    ]
    (table,) = patches.parts[0].tables
    *labels, everything, commonest = table.rows
    numbers = {row[0].text: row[1].value for row in labels}  # type: ignore[union-attr]
    assert numbers.keys() <= set(ATR.labels) and "background" in numbers
    total = round(0.15 * 32) * min(NUM_COUNTED, shown.evaluation_set.num_queries)
    assert everything[1] == Number(value=total) and sum(numbers.values()) == total
    assert commonest[2] == Number(value=max(numbers.values()) / total, percent=True)
    right = sum(row[1].value * row[2].value for row in labels)  # type: ignore[union-attr]
    assert everything[2].value == pytest.approx(right / total)  # type: ignore[union-attr]
    cards = patches.parts[1].cards
    assert len(cards) == NUM_SHOWN and all(isinstance(card.cells[0], Pictures) for card in cards)
    answers = [cell for card in cards for cell in card.cells if isinstance(cell, Words)]
    assert answers and all(sum(marked for _, marked in cell.words) == 3 for cell in answers)


def test_a_parsing_map_is_that_of_its_image(world: Path) -> None:
    run = bilma.tiny()
    shown = shown_split(world, run)
    parsing, *_ = build(run).exhibits(shown)
    for query, card in zip(shown.spread(NUM_COUNTED), parsing.parts[0].cards[:1], strict=False):
        key = shown.evaluation_set.gallery_key(int(shown.evaluation_set.query_image_Q[query]))
        labels = decode_map((world / map_path(key, "atr")).read_bytes(), ATR).unique().tolist()
        assert set(card.note.split(", ")) <= {ATR.labels[label] for label in labels if label}
        image, coloured = card.cells[0].pictures  # type: ignore[union-attr]
        assert image.pixels_HWC.shape == coloured.pixels_HWC.shape == (64, 32, 3)


@torch.no_grad()
def test_a_word_is_told_and_looks_at_patches_as_the_method_does(world: Path) -> None:
    """The first shown word, masked alone in the only caption of a batch."""
    run = bilma.tiny()
    method, shown = build(run), shown_split(world, run)
    encoder = method.cross_modal_encoder
    assert encoder is not None and encoder.word_head is not None
    heat = method.exhibits(shown)[-1].parts[0].cards[0].cells[1]
    assert isinstance(heat, Pictures)
    pairs, tokeniser = shown.read(shown.spread(1)), shown.encoder.tokeniser
    ids = pairs.captions.token_ids_BL
    place = [tokeniser.word_of(token) for token in ids[0].tolist()].index(heat.title)
    ids[0, place] = method.mask_id
    text = pack_captions(ids, pairs.captions.lengths, device=torch.device("cpu"))
    joint = join(text.layout, image_tokens=33, device=torch.device("cpu"))
    rows = torch.from_numpy(joint.rows_of_words(np.array([0]), np.array([place])))
    image, tokens = method.towers.image(pairs.images(torch.device("cpu"))), method.towers.text(text)
    told = int(encoder.word_head(encoder(image, tokens, joint, rows_M=rows)).argmax())
    assert heat.remark == f"told: {tokeniser.word_of(told)}"
    look = encoder.attended(image, tokens, joint, rows_M=rows)[0, 1:33].numpy().reshape(8, 4)
    expected = heated(pairs.pixels_BCHW[0].permute(1, 2, 0).numpy(), look)
    assert np.abs(heat.pictures[0].pixels_HWC.astype(int) - expected).max() <= 1


def test_what_is_not_told_is_not_shown(world: Path) -> None:
    def titles(**changes: Any) -> list[str]:
        run = changed(**changes)
        return [one.title for one in build(run).exhibits(shown_split(world, run))]

    assert titles(weights=BilmaWeights(mlm=0, mim=0)) == []
    assert titles(weights=BilmaWeights(mlm=0)) == ["Parsing maps", "Masked patches"]
    assert titles(patch_target="pixel") == titles(weights=BilmaWeights(mim=0)) == ["Which patches answer for a masked word"]


def test_a_split_without_maps_is_said_to_have_none(world: Path) -> None:
    run = changed(label_set="lip")
    first, *others = build(run).exhibits(shown_split(world, run))
    (part,) = first.parts
    assert first.title == "Parsing maps" and "tbps parse" in part.note and isinstance(part.note, str)
    assert len(others) == 1 and not isinstance(others[0].title, Text)

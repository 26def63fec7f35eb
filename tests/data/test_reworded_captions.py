"""What a batch brings beside its captions where a method asks: reworded copies, prompts, and where words begin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tiny_folder import NEEDS, make_data, make_encoder, write_folder

from tbps.config.data import Data, Pixels
from tbps.config.needs import Needs
from tbps.config.rewording import Rewording
from tbps.data.batch import HostBatch
from tbps.data.loader import make_loader
from tbps.data.pairs import open_pairs
from tbps.data.views import make_views
from tbps.text.captions import CaptionEncoder
from tbps.text.word_pieces import WordPieces

ASKED = replace(NEEDS, rewording=Rewording(), prompts=("a man", "a woman with a hat"), word_starts=True)


def batches(
    data: Data, encoder: CaptionEncoder, needs: Needs = ASKED, *, seed: int = 7, start: int = 0, steps: int = 5
) -> list[HostBatch]:
    return list(make_loader(open_pairs(data), encoder, data, needs, seed=seed, start_step=start, num_steps=steps))


def ending(encoder: CaptionEncoder) -> CaptionEncoder:
    """The same, whose captions end with [SEP]."""
    tokeniser = encoder.tokeniser
    assert isinstance(tokeniser, WordPieces) and tokeniser.end_id is None
    ends = WordPieces(tokeniser._tokenizer, name=tokeniser.name, ends=True)
    assert ends.end_id == tokeniser.sep_id
    return CaptionEncoder(ends, max_words=0, max_tokens=40, cleaning="space", chunker=None)


def test_reworded_copies_are_other_ones_in_each_epoch_and_the_same_on_resume(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    data, encoder = make_data(tmp_path), make_encoder(tmp_path)
    first = batches(data, encoder)
    again = [*batches(replace(data, workers=1), encoder, steps=2), *batches(data, encoder, start=2, steps=3)]
    seen: dict[str, list[list[int]]] = {}
    changed = 0
    for batch, other in zip(first, again, strict=True):
        assert batch.reworded is not None and other.reworded is not None
        assert torch.equal(batch.reworded.token_ids_BL, other.reworded.token_ids_BL)
        for row, key in enumerate(batch.keys):
            length = batch.reworded.lengths[row]
            ids = batch.reworded.token_ids_BL[row, :length].tolist()
            seen.setdefault(key, []).append(ids)
            changed += ids != batch.own.token_ids_BL[row, : batch.own.lengths[row]].tolist()
    assert changed > 0.8 * 40
    assert sum(one != two for one, two in seen.values()) > 0.8 * len(seen)


def test_own_captions_and_every_other_choice_stay_as_without_them(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    data, encoder = make_data(tmp_path), make_encoder(tmp_path)
    for batch, plain in zip(batches(data, encoder), batches(data, encoder, NEEDS), strict=True):
        assert plain.reworded is None and plain.prompts is None and plain.own.starts_BL is None
        assert torch.equal(batch.own.token_ids_BL, plain.own.token_ids_BL)
        assert torch.equal(batch.paired.token_ids_BL, plain.paired.token_ids_BL)
        assert torch.equal(batch.pixels_BCHW, plain.pixels_BCHW) and torch.equal(batch.flip_BV, plain.flip_BV)
        for name in batch.draws.numbers:
            assert torch.equal(batch.draws[name], plain.draws[name])


def test_prompts_and_word_starts_reach_the_method(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    data, encoder = make_data(tmp_path), ending(make_encoder(tmp_path))
    host = batches(data, encoder, steps=1)[0]
    batch = make_views(host, torch.device("cpu"), pixels=Pixels(), group_pairs=4)
    assert batch.prompts is not None and batch.reworded is host.reworded
    texts = [encoder.tokeniser.decode(ids) for ids in batch.prompts.token_ids_BL.tolist()]
    assert texts == list(ASKED.prompts)
    for captions in (batch.own, batch.prompts, batch.reworded):
        assert captions is not None and captions.starts_BL is not None
        for ids, starts, length in zip(captions.token_ids_BL, captions.starts_BL, captions.lengths, strict=True):
            assert ids[length - 1] == encoder.tokeniser.end_id and starts[[0, length - 1]].all() and starts[length:].all()
            pieces = [encoder.tokeniser.word_of(number) for number in ids[1 : length - 1].tolist()]
            assert starts[1 : length - 1].tolist() == [not piece.startswith("##") for piece in pieces]
    assert not all(captions.starts_BL.all() for captions in (batch.own, batch.prompts))

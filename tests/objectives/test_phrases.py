from __future__ import annotations

import numpy as np
import pytest

from tbps.objectives.phrases import phrase_table

CLS, MASK = 2, 3
IDS = np.array([[CLS, 10, 11, 12, 13, 14], [CLS, 20, 0, 0, 0, 0], [CLS, 15, 11, 12, 16, 0]])
CHUNKS = np.array([[0, 1, 0, 2, 2, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]])


def test_every_chunk_becomes_a_phrase_with_one_masked_word() -> None:
    uniform = np.zeros((3, 6))
    uniform[0, 1], uniform[0, 3], uniform[2, 2] = 0.4, 0.5, 0.999
    table = phrase_table(IDS, CHUNKS, uniform, mask_id=MASK)
    whole, masked = table.captions.token_ids_BL.chunk(2)
    assert whole.tolist() == [[CLS, 10, 14], [CLS, 12, 13], [CLS, 11, 12]]
    assert masked.tolist() == [[CLS, MASK, 14], [CLS, 12, MASK], [CLS, 11, MASK]]
    assert table.captions.lengths == (3,) * 6
    assert table.caption_M.tolist() == [0, 0, 2] and table.label_M.tolist() == [10, 13, 12]
    assert table.position_M.tolist() == [1, 2, 2] and table.num_phrases == 3
    assert table.weight_M.tolist() == pytest.approx([1 / 3] * 3)


def test_phrases_of_the_same_words_have_the_same_number() -> None:
    ids = np.array([[CLS, 11, 12], [CLS, 12, 11], [CLS, 11, 12]])
    words = phrase_table(ids, np.array([[0, 1, 1]] * 3), np.zeros((3, 3)), mask_id=MASK).words_M
    assert words[0] == words[2] != words[1]


def test_without_a_phrase_the_first_word_stands_in_with_no_weight() -> None:
    table = phrase_table(IDS, np.zeros_like(CHUNKS), np.zeros((3, 6)), mask_id=MASK)
    assert table.captions.token_ids_BL.tolist() == [[CLS, 10], [CLS, MASK]]
    assert table.num_phrases == 0 and table.weight_M.tolist() == [0]


def test_a_group_without_a_phrase_has_one_whatever_the_other_groups_have() -> None:
    ids, chunks = np.tile(IDS, (2, 1)), np.concatenate([np.zeros_like(CHUNKS), CHUNKS])
    both = phrase_table(ids, chunks, np.zeros((6, 6)), mask_id=MASK, group_pairs=3)
    parts = [phrase_table(IDS, part, np.zeros((3, 6)), mask_id=MASK) for part in np.split(chunks, 2)]
    assert both.caption_M.tolist() == [*parts[0].caption_M, *(3 + parts[1].caption_M)] == [0, 3, 3, 5]
    assert both.weight_M.tolist() == pytest.approx([0, *(parts[1].weight_M / 2)])
    assert both.num_phrases == 3


def test_every_word_of_a_phrase_is_masked_in_its_turn() -> None:
    masked = [
        phrase_table(IDS, CHUNKS, np.full((3, 6), number), mask_id=MASK).position_M[0] for number in (0, 0.49, 0.5, 0.999999)
    ]
    assert masked == [1, 1, 2, 2]

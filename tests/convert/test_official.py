from __future__ import annotations

import pytest
import torch
from recorded_step import Recorded
from small_methods import scattered, state, tiny
from torch import Tensor

from tbps.convert.official import from_official, to_official, with_duplicates

KINDS = ["albef", "rasa", "mars"]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].shape == tensor.shape and torch.equal(found[key], tensor), key


@pytest.mark.parametrize("kind", KINDS)
def test_official_to_ours_and_back_is_the_same_file(kind: str) -> None:
    official = Recorded(kind).part("weights.")
    converted = from_official(official)
    assert converted.unplaced == [] and converted.queue_dropped == []
    bert_level = kind != "albef"
    same(with_duplicates(to_official(converted.tensors, bert_level=bert_level), bert_level=bert_level), official)
    assert all(key.endswith(("position_ids", "decoder.weight", "decoder.bias")) for key in converted.duplicates)
    assert len(converted.duplicates) == (2 if kind == "albef" else 6)


@pytest.mark.parametrize("bert_level", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_ours_to_official_and_back(kind: str, bert_level: bool) -> None:
    ours = state(scattered(tiny(kind)))
    official = to_official(ours, bert_level=bert_level)
    assert any(".bert." in key for key in official) == bert_level
    same(from_official(with_duplicates(official, bert_level=bert_level)).tensors, ours)


@pytest.mark.parametrize("kind", KINDS)
def test_every_unknown_key_is_listed(kind: str) -> None:
    official = Recorded(kind).part("weights.")
    strange = ["visual_encoder.head.weight", "text_encoder.pooler.dense.bias", "zebra", "visual_encoder.blocks.0.gamma"]
    converted = from_official(official | {key: torch.zeros(1) for key in strange})
    assert converted.unplaced == sorted(strange)
    same(converted.tensors, from_official(official).tensors)


def test_a_queue_without_identities_is_dropped_and_said() -> None:
    official = Recorded("rasa").part("weights.")
    del official["idx_queue"]
    converted = from_official(official)
    assert converted.queue_dropped == ["image_queue", "text_queue", "queue_ptr"] and converted.unplaced == []
    assert not any(name.startswith("queue.") for name in converted.tensors)


def test_queue_shapes() -> None:
    official = Recorded("rasa").part("weights.")
    tensors = from_official(official).tensors
    assert tensors["queue.identity_K"].shape == (16,) and tensors["queue.pointer"].shape == (1,)
    assert torch.equal(tensors["queue.image_KE"][3], official["image_queue"][:, 3])


def test_an_untied_word_head_is_refused() -> None:
    official = Recorded("mars").part("weights.")
    official["text_encoder_m.cls.predictions.decoder.weight"] = official["text_encoder_m.cls.predictions.decoder.weight"] + 1
    with pytest.raises(
        ValueError, match=r"text_encoder_m\.cls\.predictions\.decoder\.weight differs from .*stored twice.*ties"
    ):
        from_official(official)


def test_a_second_copy_without_its_original_is_listed() -> None:
    converted = from_official({"text_encoder.cls.predictions.decoder.bias": torch.zeros(3), "temp": torch.tensor(0.07)})
    assert converted.unplaced == ["text_encoder.cls.predictions.decoder.bias"] and list(converted.tensors) == ["temperature"]

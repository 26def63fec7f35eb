"""Label sets as values, and the files in which their maps lie."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tbps.config.data import LabelSetName
from tbps.data.fields import FIELDS
from tbps.data.label_maps import decode_map, encode_map, swap_sides
from tbps.data.label_sets import ATR, LABEL_SETS, LIP, PASCAL, LabelSet
from tbps.data.parsing_cache import Manifest, label_sets_of, read_manifest, write_manifest

# GoGoDuck912/Self-Correction-Human-Parsing: simple_extractor.py, dataset_settings. Its ATR is also the id2label of
# mattmdjaga/segformer_b2_clothes on Hugging Face: config.json.
PUBLISHED = {
    "atr": "Background Hat Hair Sunglasses Upper-clothes Skirt Pants Dress Belt Left-shoe Right-shoe Face Left-leg Right-leg"
    " Left-arm Right-arm Bag Scarf",
    "lip": "Background Hat Hair Glove Sunglasses Upper-clothes Dress Coat Socks Pants Jumpsuits Scarf Skirt Face Left-arm"
    " Right-arm Left-leg Right-leg Left-shoe Right-shoe",
    "pascal": "Background Head Torso Upper-Arms Lower-Arms Upper-Legs Lower-Legs",
}


def test_the_sets_are_those_of_the_published_parsers() -> None:
    assert {name: one.labels for name, one in LABEL_SETS.items()} == {
        name: tuple(labels.lower().split()) for name, labels in PUBLISHED.items()
    }
    assert [ATR.number(label) for label in ("left-shoe", "bag")] == [9, 16]
    with pytest.raises(ValueError, match=r"^Pascal-Person-Part has no label 'bag', expected one of background, head,"):
        PASCAL.number("bag")


@pytest.mark.parametrize("label_set", LABEL_SETS.values(), ids=LABEL_SETS)
def test_sides_and_parts(label_set: LabelSet) -> None:
    named = {(label, label.replace("left", "right")) for label in label_set.labels if "left" in label}
    assert {(label_set.labels[left], label_set.labels[right]) for left, right in label_set.sides} == named
    assert len(named) == {"atr": 3, "lip": 3, "pascal": 0}[label_set.name]
    for left, right in label_set.sides:
        assert label_set.parts[left] == label_set.parts[right]
    nobody = {label for label, part in zip(label_set.labels, label_set.parts, strict=True) if not part}
    assert nobody == {"background", "bag"} & set(label_set.labels)
    assert {"head", "torso", "arms", "legs"} == set(label_set.parts) - {""}
    assert FIELDS[f"parsing_{label_set.name}"].sides == label_set.sides
    every = torch.arange(len(label_set), dtype=torch.uint8)
    mirrored = swap_sides(every[None], label_set.sides)[0]
    assert torch.equal(swap_sides(mirrored[None], label_set.sides)[0], every)
    assert {label_set.labels[label] for label in every[mirrored != every]} == {side for pair in named for side in pair}


@pytest.mark.parametrize("name", LABEL_SETS)
def test_a_map_is_read_as_it_was_written(name: LabelSetName) -> None:
    labels_HW = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) % len(LABEL_SETS[name])
    content = encode_map(labels_HW, name, image_bytes=b"an image")
    assert content == encode_map(labels_HW.copy(), name, image_bytes=b"an image")
    assert content != encode_map(labels_HW, name, image_bytes=b"another")
    assert np.array_equal(decode_map(content, LABEL_SETS[name]).numpy(), labels_HW)


def test_a_label_of_another_set_is_refused() -> None:
    content = encode_map(np.full((4, 2), 19, np.uint8), "lip", image_bytes=b"")
    with pytest.raises(
        ValueError, match=r"holds label 19, expected 0 to 6 of Pascal-Person-Part; write it again, or choose"
    ):
        decode_map(content, PASCAL)


def test_a_manifest_says_what_the_numbers_mean(tmp_path: Path) -> None:
    assert label_sets_of(tmp_path) == [] and read_manifest(tmp_path, "lip") is None
    written = Manifest(label_set="lip", parser="some model", parser_sha256="ab" * 32)
    write_manifest(tmp_path, written)
    assert label_sets_of(tmp_path) == ["lip"] and read_manifest(tmp_path, "lip") == written
    file = tmp_path / "parsing/lip/manifest.json"
    content = json.loads(file.read_text())
    assert content["labels"] == list(LIP.labels)
    file.write_text(json.dumps({**content, "label_set": "atr"}))
    with pytest.raises(
        ValueError, match=r"manifest.json is of label set 'atr', expected 'lip' with the labels background, "
    ):
        read_manifest(tmp_path, "lip")
    file.write_text(json.dumps({**content, "labels": ["wall", "sky"]}))
    with pytest.raises(ValueError, match=r"expected 'lip' with the labels"):
        read_manifest(tmp_path, "lip")
    file.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_manifest(tmp_path, "lip")

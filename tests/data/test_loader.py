import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_folder import MAIN_FILE, NEEDS, caption, make_data, write_folder
from torch import Tensor

from tbps.config.data import Augmentation, Data, Pixels
from tbps.data.batch import HostBatch
from tbps.data.loader import load_gallery, load_queries, make_loader
from tbps.data.pairs import EvaluationSet, open_pairs
from tbps.text.captions import CaptionEncoder
from tbps.text.token_batch import Captions

AUGMENTATIONS: list[tuple[Augmentation, ...]] = [
    ("flip",),
    ("flip", "pad-crop", "erase"),
    ("resized-crop", "random-operations", "flip"),
    ("random-operations", "flip", "erase"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuhk")
    write_folder(folder, "cuhk-pedes")
    return folder


def load(data: Data, encoder: CaptionEncoder, *, start: int, steps: int, rank: int = 0, world: int = 1) -> list[HostBatch]:
    source = open_pairs(data)
    loader = make_loader(
        source, encoder, data, NEEDS, seed=7, start_step=start, num_steps=steps, rank=rank, world_size=world
    )
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def leaves(value: object, name: str = "") -> dict[str, object]:
    """Every tensor and value of nested dataclasses and dicts, by dotted name."""
    if isinstance(value, dict):
        return {key: leaf for part in value for key, leaf in leaves(value[part], f"{name}.{part}").items()}
    if dataclasses.is_dataclass(value):
        fields = [leaves(getattr(value, field.name), f"{name}.{field.name}") for field in dataclasses.fields(value)]
        return {key: leaf for part in fields for key, leaf in part.items()}
    return {name: value}


def assert_equal(left: HostBatch, right: HostBatch) -> None:
    left_leaves, right_leaves = leaves(left), leaves(right)
    assert left_leaves.keys() == right_leaves.keys()
    for name, value in left_leaves.items():
        other = right_leaves[name]
        if isinstance(value, Tensor):
            assert isinstance(other, Tensor) and value.dtype == other.dtype and torch.equal(value, other), name
        else:
            assert value == other, name


def test_two_epochs_hold_every_pair_twice(root: Path, encoder: CaptionEncoder) -> None:
    data = make_data(root)
    batches = load(data, encoder, start=0, steps=5)
    keys = [key for batch in batches for key in batch.keys]
    assert len(keys) == 40
    assert len(set(keys[:20])) == len(set(keys[20:])) == 20
    assert keys[:20] != keys[20:]
    assert [batch.epoch for batch in batches] == [0.0, 0.4, 0.8, 1.2, 1.6]


@pytest.mark.parametrize("augmentations", [(), *AUGMENTATIONS])
def test_shapes(root: Path, encoder: CaptionEncoder, augmentations: tuple[Augmentation, ...]) -> None:
    batch = load(make_data(root, augmentations=augmentations), encoder, start=0, steps=1)[0]
    assert batch.pixels_BCHW.shape == (8, 3, 32, 16) and batch.pixels_BCHW.dtype == torch.uint8
    assert batch.flip_BV.shape == (8, 2) and batch.flip_BV.dtype == torch.bool
    assert batch.flip_BV.any() == ("flip" in augmentations)
    assert (batch.second_pixels_BCHW is not None) == ("random-operations" in augmentations)
    assert (batch.shift_BV2 is not None) == ("pad-crop" in augmentations)
    assert (batch.erase_BV4 is not None) == ("erase" in augmentations)
    if "pad-crop" in augmentations:
        assert batch.shift_BV2 is not None and batch.shift_BV2.shape == (8, 2, 2)
        assert batch.shift_BV2.min() >= 0 and batch.shift_BV2.max() <= 2
    if "erase" in augmentations:
        assert batch.erase_BV4 is not None and batch.erase_BV4.shape == (8, 2, 4)
        assert batch.erase_BV4[..., 2].max() > 0
    length = batch.own.token_ids_BL.shape[1]
    assert length % 8 == 0 and length - 8 < max(batch.own.lengths) <= length
    shapes = {name: tuple(number.shape) for name, number in batch.draws.numbers.items()}
    assert shapes == {"negatives": (8, 2), "mlm": (8, 4, length), "mae": (8, 6)}
    assert batch.identity_B.dtype == batch.replaced_B.dtype == torch.int64


@pytest.mark.parametrize("augmentations", AUGMENTATIONS[1:])
def test_restart_in_the_middle_gives_the_same_batches(
    root: Path, encoder: CaptionEncoder, augmentations: tuple[Augmentation, ...]
) -> None:
    data = make_data(root, augmentations=augmentations)
    whole = load(data, encoder, start=0, steps=6)
    rest = load(data, encoder, start=4, steps=2)
    assert len(rest) == 2
    for left, right in zip(whole[4:], rest, strict=True):
        assert_equal(left, right)


def test_workers_do_not_change_batches_nor_the_global_generator(root: Path, encoder: CaptionEncoder) -> None:
    data = make_data(root, augmentations=("flip", "pad-crop", "erase"))
    alone = load(data, encoder, start=1, steps=4)
    torch.manual_seed(3)
    helped = load(dataclasses.replace(data, workers=2), encoder, start=1, steps=4)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    for left, right in zip(alone, helped, strict=True):
        assert_equal(left, right)


def test_ranks_and_micro_batches_cut_the_same_global_batch(root: Path, encoder: CaptionEncoder) -> None:
    data = make_data(root)
    whole = load(data, encoder, start=0, steps=3)
    halves = [
        load(dataclasses.replace(data, micro_batch_pairs=2), encoder, start=0, steps=3, rank=r, world=2) for r in (0, 1)
    ]
    assert len(halves[0]) == 6
    for step, batch in enumerate(whole):
        parts = [half[2 * step + number] for half in halves for number in (0, 1)]
        assert [key for part in parts for key in part.keys] == list(batch.keys)
        assert torch.equal(torch.cat([part.pixels_BCHW for part in parts]), batch.pixels_BCHW)
        assert torch.equal(torch.cat([part.draws["negatives"] for part in parts]), batch.draws["negatives"])
        assert torch.equal(torch.cat([part.replaced_B for part in parts]), batch.replaced_B)


def test_batch_cannot_be_cut(root: Path, encoder: CaptionEncoder) -> None:
    with pytest.raises(ValueError, match=r"world size 3 does not divide the 4 groups of a batch \(data.batch_pairs 8"):
        load(make_data(root), encoder, start=0, steps=1, world=3)
    with pytest.raises(ValueError, match="micro_batch_pairs is 6, expected a divisor of the 8 pairs"):
        load(make_data(root, micro_batch_pairs=6), encoder, start=0, steps=1)


def swapped_share(data: Data, encoder: CaptionEncoder) -> float:
    batches = load(data, encoder, start=0, steps=40)
    for batch in batches:
        for row, replaced in enumerate(batch.replaced_B.tolist()):
            own, paired = batch.own.token_ids_BL[row], batch.paired.token_ids_BL[row]
            same = own[own > 0].tolist() == paired[paired > 0].tolist()
            assert same == (not replaced)
    return torch.cat([batch.replaced_B for batch in batches]).float().mean().item()


def test_weak_positives_are_as_frequent_as_asked(root: Path, encoder: CaptionEncoder) -> None:
    # An identity has four captions: drawing among all of them keeps the own one in a quarter of the swaps.
    small = make_data(root, weak_positive_probability=0.5, image_px=(8, 8))
    assert abs(swapped_share(small, encoder) - 0.375) < 0.08
    # Among the captions of other images, every swap counts.
    other = dataclasses.replace(small, weak_positive_pool="other-image")
    assert abs(swapped_share(other, encoder) - 0.5) < 0.08
    assert swapped_share(dataclasses.replace(small, weak_positive_probability=0.0), encoder) == 0


def test_weak_positive_has_the_same_identity_and_another_image(root: Path, encoder: CaptionEncoder) -> None:
    data = make_data(root, weak_positive_probability=1.0, weak_positive_pool="other-image", image_px=(8, 8))
    image_of = {
        tuple(encoder.encode(caption(number, which), "k").token_ids.tolist()): number
        for number in range(10)
        for which in (0, 1)
    }
    for batch in load(data, encoder, start=0, steps=5):
        for row, identity in enumerate(batch.identity_B.tolist()):
            image = image_of[tuple(batch.paired.token_ids_BL[row, : batch.paired.lengths[row]].tolist())]
            assert image // 2 == identity and f"_{image}.jpg" not in batch.keys[row]


def test_identity_with_one_image_keeps_its_caption(tmp_path: Path, encoder: CaptionEncoder) -> None:
    write_folder(tmp_path, "icfg-pedes", images_each=1, captions_each=1)
    data = make_data(tmp_path, "icfg-pedes", batch_pairs=2, weak_positive_probability=1.0)
    for pool in ("identity", "other-image"):
        batches = load(dataclasses.replace(data, weak_positive_pool=pool), encoder, start=0, steps=3)
        assert not any(batch.replaced_B.any() for batch in batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pairs_are_named(tmp_path: Path, encoder: CaptionEncoder, workers: int) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    data = make_data(tmp_path, workers=workers)
    image = tmp_path / "imgs" / rows[3]["file_path"]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"^pair cam_1/0001_3.jpg#[01]: its image file \(\d+ bytes\) cannot be dec.*[Tt]runc"
    ):
        load(data, encoder, start=0, steps=3)
    image.unlink()
    with pytest.raises(ValueError, match=r"^pair cam_1/0001_3.jpg#[01]: image cam_1/0001_3.jpg is not below"):
        load(data, encoder, start=0, steps=3)
    image.write_bytes(content)
    rows[3]["captions"] = ["...", "?!"]
    (tmp_path / "reid_raw.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"^pair cam_1/0001_3.jpg#[01]: its caption '.*' has no word left after cleaning"):
        load(data, encoder, start=0, steps=3)


def test_caption_of_500_words_is_cut(tmp_path: Path, encoder: CaptionEncoder) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    rows[0]["captions"] = [" ".join(["red shirt"] * 250), "red"]
    (tmp_path / "reid_raw.json").write_text(json.dumps(rows))
    batches = load(make_data(tmp_path), encoder, start=0, steps=3)
    assert max(length for batch in batches for length in batch.own.lengths) == 50


def test_limit_pairs(root: Path, encoder: CaptionEncoder) -> None:
    batches = load(make_data(root, limit_pairs=6), encoder, start=0, steps=3)
    keys = [key for batch in batches for key in batch.keys]
    assert len(set(keys)) == 6 and all(keys.count(key) == 4 for key in keys)


def test_evaluation_batches(root: Path, encoder: CaptionEncoder) -> None:
    evaluation = EvaluationSet(open_pairs(make_data(root), "test"))
    assert (evaluation.num_gallery, evaluation.num_queries) == (2, 4)
    assert evaluation.query_image_Q.tolist() == [0, 0, 1, 1]
    alone = list(load_gallery(evaluation, [1, 0], image_px=(32, 16), pixels=Pixels(), batch_images=1, workers=0))
    helped = list(load_gallery(evaluation, [0, 1], image_px=(32, 16), pixels=Pixels(), batch_images=2, workers=1))
    assert [batch.shape for batch in alone] == [(1, 3, 32, 16)] * 2
    assert torch.equal(torch.cat(alone).flip(0), helped[0])
    captions = list(load_queries(evaluation, range(4), encoder, batch_captions=3))
    assert [len(batch.lengths) for batch in captions] == [3, 1]
    expected = encoder.encode(caption(11, 1), "k").token_ids
    assert torch.equal(captions[1].token_ids_BL[0, : len(expected)], expected)


def test_random_choices_change_with_epoch_and_seed(root: Path, encoder: CaptionEncoder) -> None:
    data = make_data(root, batch_pairs=20, augmentations=("flip", "pad-crop", "erase"))
    source = open_pairs(data)

    def rows(seed: int, epoch: int) -> dict[str, tuple[object, ...]]:
        batch = next(iter(make_loader(source, encoder, data, NEEDS, seed=seed, start_step=epoch, num_steps=1)))
        assert batch.shift_BV2 is not None
        return {
            key: (batch.flip_BV[row].tolist(), batch.shift_BV2[row].tolist(), batch.draws["negatives"][row].tolist())
            for row, key in enumerate(batch.keys)
        }

    first = rows(0, 0)
    assert rows(0, 0) == first
    for other in (rows(0, 1), rows(1, 0)):
        assert other.keys() == first.keys()
        assert sum(other[key][:2] != first[key][:2] for key in first) > 15
        assert all(other[key][2] != first[key][2] for key in first)


def test_equal_sentence_is_no_replacement(tmp_path: Path, encoder: CaptionEncoder) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    for row in rows:
        row["captions"] = ["A man in a red shirt."] * 2
    (tmp_path / "reid_raw.json").write_text(json.dumps(rows))
    batches = load(make_data(tmp_path, weak_positive_probability=1.0), encoder, start=0, steps=3)
    assert not any(batch.replaced_B.any() for batch in batches)


@pytest.mark.parametrize("augmentations", AUGMENTATIONS)
def test_keep_sides_mirrors_no_pair_that_says_left_or_right_and_moves_no_other_choice(
    tmp_path: Path, encoder: CaptionEncoder, augmentations: tuple[Augmentation, ...]
) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes", num_identities=13)
    for row in rows[::3]:  # the first caption of every third image: its second one may be swapped for it
        row["captions"][0] += " His left hand holds a bag"
    (tmp_path / MAIN_FILE["cuhk-pedes"]).write_text(json.dumps(rows))
    changes = {"augmentations": augmentations, "workers": 1, "weak_positive_probability": 0.5}
    usual = load(make_data(tmp_path, **changes), encoder, start=0, steps=12)
    kept = load(make_data(tmp_path, keep_sides=True, **changes), encoder, start=0, steps=12)
    left = encoder.tokeniser.encode("left").ids
    unflipped = 0
    for before, after in zip(usual, kept, strict=True):
        told = torch.tensor(
            [_holds(own, left) or _holds(other, left) for own, other in zip(_rows(after.own), _rows(after.paired))]
        )
        assert torch.equal(after.flip_BV, before.flip_BV & ~told[:, None])
        unflipped += int((before.flip_BV & told[:, None]).sum())
        assert_equal(dataclasses.replace(after, flip_BV=before.flip_BV), before)
    assert unflipped > 10


def _rows(captions: Captions) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(captions.token_ids_BL, captions.lengths)]


def _holds(row: list[int], piece: list[int]) -> bool:
    return any(row[start : start + len(piece)] == piece for start in range(len(row)))


def test_keep_sides_needs_mirroring(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.keep_sides is on and data.augmentations is empty, which mirrors nothing"):
        make_data(tmp_path, augmentations=(), keep_sides=True)


@pytest.mark.parametrize(
    ("augmentations", "sentence"),
    [
        (("erase", "flip"), "is erase flip, expected each once, in the order in which they are made: flip erase"),
        (("flip", "flip"), "is flip flip, expected each once, in the order in which they are made: flip"),
        (("resized-crop", "pad-crop"), "is resized-crop pad-crop, expected one crop at most; leave out resized-crop or"),
    ],
)
def test_augmentations_that_make_no_sense_together(
    tmp_path: Path, augmentations: tuple[Augmentation, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^data.augmentations {sentence}"):
        make_data(tmp_path, augmentations=augmentations)


def test_images_are_scaled_while_they_are_decoded(tmp_path: Path, encoder: CaptionEncoder) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    whole, scaled = (
        load(make_data(tmp_path, image_px=(8, 8), decode_margin=margin), encoder, start=0, steps=2) for margin in (0.0, 1.5)
    )
    for left, right in zip(whole, scaled, strict=True):
        difference = (left.pixels_BCHW.float() - right.pixels_BCHW.float()).abs()
        assert left.keys == right.keys and 0 < difference.mean() < 8
        assert torch.equal(left.flip_BV, right.flip_BV)
    with pytest.raises(ValueError, match=r"decode_margin is 2.0 and data.augmentations is resized-crop, which crops"):
        make_data(tmp_path, decode_margin=2.0, augmentations=("resized-crop",))
    needs = dataclasses.replace(NEEDS, fields=("parsing_atr",))
    data = make_data(tmp_path, decode_margin=1.0)
    with pytest.raises(ValueError, match=r"decode_margin is 1.0, expected 0: the method asks for parsing_atr, which"):
        make_loader(open_pairs(data), encoder, data, needs, seed=0, start_step=0, num_steps=1)

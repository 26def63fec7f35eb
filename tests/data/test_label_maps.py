"""Label maps of a pair: they go where the image goes, in folders and in shards; one that cannot be used is named."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mapped_pairs import IMAGE_PX, asking, data_of, load, map_file
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from tbps.command import main
from tbps.config.data import Augmentation, Pixels
from tbps.data.annotations import read_annotations
from tbps.data.augmentation import OPERATIONS, change_on_host, uniforms
from tbps.data.fields import Field, read_parsing
from tbps.data.label_maps import map_path
from tbps.data.label_sets import ATR
from tbps.data.pairs import PairSource, open_pairs
from tbps.data.shard_writer import write_shards
from tbps.data.views import crop_padding_px, normalise_pixels
from tbps.text.captions import CaptionEncoder

AUGMENTATIONS: list[tuple[Augmentation, ...]] = [
    (),
    ("flip",),
    ("flip", "pad-crop", "erase"),
    ("resized-crop", "random-operations", "flip", "erase"),
    ("random-operations", "flip", "pad-crop"),
]


def read_plain(source: PairSource, index: int) -> Tensor:
    """The parsing map as a field of a method's own."""
    return read_parsing(source, index, label_set="atr")


PLAIN = Field(read=read_plain, label_map=True)
"""Without sides, so that a map can be compared with an image pixel by pixel."""


@pytest.fixture(scope="module")
def painted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same world, in which each image shows the labels of its parsing map: grey of ten times the label."""
    folder = tmp_path_factory.mktemp("painted") / "world"
    shutil.copytree(world, folder)
    for path in read_annotations(folder, "rstpreid").split("train").image_path:
        with Image.open(folder / map_path(path, "atr")) as image:
            labels_HW = np.array(image)
        assert labels_HW.max() > 8
        Image.fromarray(np.repeat(10 * labels_HW[..., None], 3, axis=2)).save(folder / "imgs" / path, "PNG")
    return folder


# -- where the image goes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentations", [one for one in AUGMENTATIONS if "random-operations" not in one])
@pytest.mark.parametrize("second_view", [True, False])
def test_a_map_goes_where_its_image_goes_to_the_pixel(
    painted: Path, encoder: CaptionEncoder, augmentations: tuple[Augmentation, ...], second_view: bool
) -> None:
    data, needs = data_of(painted, augmentations), asking("labels", second_view=second_view)
    moved = erased = 0
    for host, batch in load(data, encoder, needs, fields={"labels": PLAIN}):
        labels_BHW = batch.fields["labels"]
        assert labels_BHW.dtype == torch.uint8 and labels_BHW.shape == (8, *IMAGE_PX)
        expected_BCHW = normalise_pixels((10 * labels_BHW)[:, None].expand(-1, 3, -1, -1), data.pixels)
        filled_BHW = (batch.image_BCHW == torch.tensor(data.pixels.erase).view(3, 1, 1)).all(1)
        assert torch.equal(batch.image_BCHW.permute(0, 2, 3, 1)[~filled_BHW], expected_BCHW.permute(0, 2, 3, 1)[~filled_BHW])
        boxes = torch.zeros(8, 1, 4) if host.erase_BV4 is None else host.erase_BV4
        assert int(filled_BHW.sum()) == int((boxes[:, 0, 2] * boxes[:, 0, 3]).sum())
        erased_BHW = torch.zeros_like(filled_BHW) if batch.erased_BHW is None else batch.erased_BHW
        assert torch.equal(erased_BHW, filled_BHW)
        moved += int((labels_BHW != host.maps["labels"]).any())
        erased += int((labels_BHW[filled_BHW] > 0).any())
    assert (moved > 0) == bool(augmentations) and (erased > 0) == ("erase" in augmentations)


def inside(labels_BHW: Tensor, reach: int) -> Tensor:
    """(B, H, W) bool: every pixel up to `reach` pixels away, and within the image, has the same label."""
    labels = labels_BHW.float()[:, None]
    highest, lowest = (torch.nn.functional.max_pool2d(sign * labels, 2 * reach + 1, 1, reach) for sign in (1, -1))
    return (highest == -lowest)[:, 0]


@pytest.mark.parametrize("augmentations", [one for one in AUGMENTATIONS if "random-operations" in one])
def test_a_map_goes_where_the_loader_moves_its_image(
    painted: Path, encoder: CaptionEncoder, augmentations: tuple[Augmentation, ...]
) -> None:
    """Operations change colours and smooth edges: where a label fills a patch, the image has one colour there too."""
    compared = differing = 0
    for _, batch in load(data_of(painted, augmentations), encoder, asking("labels"), fields={"labels": PLAIN}):
        labels_BHW, image_BHW = batch.fields["labels"], batch.image_BCHW[:, 0]
        # Grey was filled in beside the background, and a value after normalisation where pixels were erased.
        shown_BHW = inside(labels_BHW, 2) & (labels_BHW > 0) & (image_BHW != Pixels().erase[0])
        for pair in range(len(labels_BHW)):
            for label in labels_BHW[pair].unique().tolist():
                values = image_BHW[pair][shown_BHW[pair] & (labels_BHW[pair] == label)]
                compared += len(values)
                differing += int(((values - values.median()).abs() > 0.05).sum()) if len(values) else 0
    assert compared > 1000 and differing < 0.01 * compared


def blocks(rows: int, columns: int) -> tuple[Tensor, np.ndarray[Any, np.dtype[np.uint8]]]:
    """A map of 4 x 2 blocks with the labels 1 to 8, and an image that shows 20 times the label."""
    labels_HW = (1 + torch.arange(8, dtype=torch.uint8)).view(4, 2)
    labels_HW = labels_HW.repeat_interleave(rows // 4, 0).repeat_interleave(columns // 2, 1)
    return labels_HW, np.repeat(20 * labels_HW.numpy()[..., None], 3, axis=2)


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("sign", [1, -1])
def test_an_operation_moves_a_map_as_its_image(number: int, sign: int) -> None:
    labels_HW, image_HWC = blocks(128, 64)
    labels = np.array(OPERATIONS[number].of_map(Image.fromarray(labels_HW.numpy()), sign))
    image = np.array(OPERATIONS[number].of_image(Image.fromarray(image_HWC), sign))[..., 0]
    if number < 5:
        assert np.array_equal(labels, labels_HW), "colours alone"
        return
    assert not np.array_equal(labels, labels_HW) and (labels == 0).any()
    same = inside(torch.from_numpy(labels)[None], 1)[0].numpy()
    assert same.mean() > 0.8
    assert np.array_equal(image[same], np.where(labels == 0, 128, 20 * labels)[same])


def test_a_crop_cuts_a_map_as_its_image() -> None:
    labels_HW, image_HWC = blocks(192, 96)
    seen = set()
    for seed in range(12):
        image_CHW, maps = change_on_host(
            image_HWC,
            ("resized-crop",),
            image_px=(64, 32),
            interpolation="bicubic",
            uniform=uniforms(torch.Generator().manual_seed(seed)),
            maps={"labels": labels_HW},
        )
        same = inside(maps["labels"][None], 2)[0]
        assert same.float().mean() > 0.5
        assert torch.equal(image_CHW[0][same], 20 * maps["labels"][same])
        seen.add(maps["labels"].numpy().tobytes())
    assert len(seen) == 12


@pytest.mark.parametrize("augmentations", [("flip",), ("flip", "pad-crop", "erase")])
@pytest.mark.parametrize("workers", [0, 1])
def test_parsing_is_the_file_after_plain_transforms(
    world: Path, encoder: CaptionEncoder, augmentations: tuple[Augmentation, ...], workers: int
) -> None:
    data, mirrored = data_of(world, augmentations, image_px=(72, 40), workers=workers), 0
    for host, batch in load(data, encoder, asking("parsing_atr")):
        for row, key in enumerate(host.keys):
            with Image.open(map_file(world, key)) as file:
                image = Image.fromarray(np.array(file)).resize((40, 72), Image.Resampling.NEAREST)
            if host.flip_BV[row, 0]:
                labels = np.array(functional.hflip(image))
                for left, right in ATR.sides:
                    labels = np.where(labels == left, right, np.where(labels == right, left, labels))
                image, mirrored = Image.fromarray(labels.astype(np.uint8)), mirrored + 1
            if host.shift_BV2 is not None:
                top, left = host.shift_BV2[row, 0].tolist()
                image = functional.crop(functional.pad(image, [crop_padding_px((72, 40))]), top, left, 72, 40)
            assert np.array_equal(batch.fields["parsing_atr"][row].numpy(), np.array(image)), key
    assert 4 < mirrored < 20


# -- maps that cannot be used ---------------------------------------------------------------------------------------------


def picture(pixels: Any, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8), mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"its label map cannot be decoded \(UnidentifiedImageError\); write it again"),
        (picture(np.zeros((96, 32, 3)), "RGB"), "its label map is of mode RGB, expected P or L, whose pixels are labels"),
        (picture(np.full((96, 32), 18), "L"), "its label map holds label 18, expected 0 to 17 of ATR; write it again"),
        (picture(np.zeros((96, 33)), "L"), "its label map is 96 x 33, expected 96 x 32 as its image; make it again"),
        (None, r"\S+/parsing/\S+.png is not there, expected a parsing map of every image; tbps parse writes the maps"),
    ],
    ids=["no image", "of colours", "label out of range", "another size", "not there"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_map_is_one_sentence(
    world: Path, tmp_path: Path, encoder: CaptionEncoder, content: bytes | None, sentence: str, workers: int
) -> None:
    shutil.copytree(world, tmp_path / "world")
    for path in (tmp_path / "world/parsing/atr").glob("*.png"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^pair \S+#\d, field parsing_atr: {sentence}"):
        load(data_of(tmp_path / "world", workers=workers), encoder, asking("parsing_atr"))


# -- shards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_bring_the_parsing_maps_of_the_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: CaptionEncoder, workers: int
) -> None:
    monkeypatch.setattr("tbps.data.shard_writer.BYTES_PER_MB", 1 << 14)
    shards = tmp_path / "shards"
    index = write_shards(world, "rstpreid", shards, shard_mb=1, workers=workers, parsing=("atr", "pascal"))
    assert len(index["train"].shards) > 3
    for split in index:
        left, right = (open_pairs(data_of(root), split) for root in (world, shards))
        for pair in range(len(left)):
            for label_set in ("atr", "pascal"):
                assert left.parsing_bytes(pair, label_set) == right.parsing_bytes(pair, label_set)
            assert left.image_bytes(pair) == right.image_bytes(pair)
    needs = asking("parsing_atr", "parsing_pascal")
    for (_, left), (_, right) in zip(*(load(data_of(root), encoder, needs) for root in (world, shards))):
        for name in needs.fields:
            assert torch.equal(left.fields[name], right.fields[name]) and left.fields[name].any()
        assert not torch.equal(left.fields["parsing_atr"], left.fields["parsing_pascal"])
    with pytest.raises(ValueError, match=r"bring no parsing maps of LIP, only of ATR, Pascal-Person-Part; make them again"):
        open_pairs(data_of(shards)).parsing_bytes(0, "lip")


def test_the_command_takes_parsing_maps_along_where_it_is_told(world: Path, tmp_path: Path) -> None:
    for option, name in (("--parsing pascal", "with"), ("", "without")):
        command = ["data", "shard", str(world), str(tmp_path / name), "--benchmark", "rstpreid", *option.split()]
        assert main(command) == 0
    maps = [
        b".parsing-pascal.png" in file.read_bytes()
        for name in ("with", "without")
        for file in (tmp_path / name).glob("*.tar")
    ]
    assert maps == [True] * 3 + [False] * 3


def test_an_image_without_a_map_cannot_be_sharded_with_maps(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    next((tmp_path / "world/parsing/atr").glob("*.png")).unlink()
    with pytest.raises(ValueError, match=r"^image \S+.jpg has no parsing map: \S+ is not there; tbps parse writes the maps"):
        write_shards(tmp_path / "world", "rstpreid", tmp_path / "shards", parsing=("atr", "pascal"))
    assert not (tmp_path / "shards").exists()


def test_a_changed_map_in_a_shard_is_named(world: Path, tmp_path: Path) -> None:
    write_shards(world, "rstpreid", tmp_path / "shards", splits=["test"], parsing=("atr", "pascal"))
    source = open_pairs(data_of(tmp_path / "shards"), "test")
    shard = tmp_path / "shards/test-0000.tar"
    content, place = shard.read_bytes(), shard.read_bytes().index(source.parsing_bytes(0, "atr")[-40:])
    shard.write_bytes(content[:place] + b"?" + content[place + 1 :])
    with pytest.raises(ValueError, match=r"parsing map of image \S+.jpg at byte \d+ has other content than its index says"):
        source.parsing_bytes(0, "atr")
    assert source.image_bytes(0)

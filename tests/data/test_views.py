import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from tbps.config.data import Augmentation, Interpolation, Pixels
from tbps.data.augmentation import OPERATIONS, ViewDraws, change_on_host, draw_views, uniforms
from tbps.data.batch import Draws, HostBatch
from tbps.data.draws import generator_of
from tbps.data.views import _channels, crop_padding_px, make_views, normalise_pixels
from tbps.text.token_batch import Captions

HEIGHT, WIDTH = 77, 39
CPU = torch.device("cpu")
PIXELS = [Pixels(), Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), erase=(0.0, -1.0, 0.5))]


def host_batch(num_pairs: int = 4, *, crop: bool = False, erase: bool = False, second: bool = False) -> HostBatch:
    generator = torch.Generator().manual_seed(0)
    captions = Captions(
        token_ids_BL=torch.ones(num_pairs, 8).long(), lengths=(8,) * num_pairs, chunk_id_BL=torch.zeros(4, 8)
    )
    pixels = [torch.randint(0, 256, (num_pairs, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator) for _ in range(2)]
    boxes = torch.tensor([[[0, 0, 0, 0], [3, 5, 20, 10]], [[70, 1, 7, 38], [0, 0, 76, 38]]] * (num_pairs // 2))
    return HostBatch(
        pixels_BCHW=pixels[0],
        second_pixels_BCHW=pixels[1] if second else None,
        flip_BV=torch.tensor([[False, False], [True, False], [False, True], [True, True]])[:num_pairs],
        shift_BV2=torch.tensor([[[0, 0], [2, 4]], [[4, 4], [1, 3]]] * (num_pairs // 2)) if crop else None,
        erase_BV4=boxes if erase else None,
        own=captions,
        paired=captions,
        replaced_B=torch.tensor([0, 1] * (num_pairs // 2)),
        identity_B=torch.arange(num_pairs),
        draws=Draws(numbers={}),
        keys=tuple(map(str, range(num_pairs))),
        epoch=1.5,
    )


def plain_view(host: HostBatch, pair: int, view: int, pixels: Pixels) -> Tensor:
    """One view with torchvision's transforms."""
    second = host.second_pixels_BCHW if view and host.second_pixels_BCHW is not None else host.pixels_BCHW
    image = Image.fromarray(second[pair].permute(1, 2, 0).numpy())
    if host.flip_BV[pair, view]:
        image = functional.hflip(image)
    if host.shift_BV2 is not None:
        border = crop_padding_px((HEIGHT, WIDTH))
        top, left = host.shift_BV2[pair, view].tolist()
        image = functional.crop(functional.pad(image, [border]), top, left, HEIGHT, WIDTH)
    out = functional.normalize(functional.to_tensor(image), pixels.mean, pixels.std)
    if host.erase_BV4 is not None:
        top, left, height, width = host.erase_BV4[pair, view].tolist()
        out = functional.erase(out, top, left, height, width, torch.tensor(pixels.erase).view(3, 1, 1))
    return out


@pytest.mark.parametrize(("crop", "erase", "second"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("pixels", PIXELS)
def test_views_are_those_of_torchvision(crop: int, erase: int, second: int, pixels: Pixels) -> None:
    host = host_batch(crop=bool(crop), erase=bool(erase), second=bool(second))
    batch = make_views(host, CPU, pixels=pixels, group_pairs=2)
    for number, view in enumerate((batch.image_BCHW, batch.second_image_BCHW)):
        assert view.dtype == torch.float32 and view.is_contiguous()
        for pair in range(4):
            assert torch.equal(view[pair], plain_view(host, pair, number, pixels)), (pair, number)


def test_the_rest_of_the_batch() -> None:
    host = host_batch()
    batch = make_views(host, CPU, pixels=Pixels(), group_pairs=2)
    assert (batch.group_pairs, batch.num_pairs, batch.num_groups, batch.epoch) == (2, 4, 2, 1.5)
    assert batch.own is host.own and batch.paired is host.paired
    assert torch.equal(batch.identity_B, host.identity_B) and torch.equal(batch.replaced_B, host.replaced_B)


@pytest.mark.parametrize("pixels", PIXELS)
def test_normalise_is_torchvision_to_the_bit(pixels: Pixels) -> None:
    bytes_BCHW = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = functional.normalize(bytes_BCHW.float().div(255), pixels.mean, pixels.std)
    assert torch.equal(normalise_pixels(bytes_BCHW, pixels), expected)
    assert bytes_BCHW.max() == 255


def test_what_evaluation_asked_for_first_can_be_used_in_training() -> None:
    pixels = Pixels(mean=(0.1, 0.2, 0.3))
    with torch.inference_mode():
        normalise_pixels(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), pixels)
    mean = _channels(pixels.mean, CPU)
    assert not mean.is_inference(), "what evaluation made is not kept for training"
    weight = torch.ones(1, requires_grad=True)
    (mean * weight).sum().backward()
    assert weight.grad is not None and torch.allclose(weight.grad, torch.tensor(0.6))


def test_border_is_in_proportion() -> None:
    assert crop_padding_px((384, 128)) == 10
    assert crop_padding_px((192, 64)) == 5
    assert crop_padding_px((8, 8)) == 1


def draws_of(seed: int, *augmentations: Augmentation) -> ViewDraws:
    uniform = uniforms(generator_of(seed=seed, epoch=0, key="k", use="pair"))
    return draw_views(augmentations, num_views=2, image_px=(384, 128), uniform=uniform)


@pytest.mark.parametrize(
    ("augmentations", "expected", "after"),
    [
        ((), ViewDraws(flip=(False, False), corner=None, erase=None), 0.6344234114493317),
        (("flip",), ViewDraws(flip=(False, True), corner=None, erase=None), 0.9476625281970003),
        (
            ("flip", "pad-crop", "erase"),
            ViewDraws(flip=(False, True), corner=((19, 8), (6, 1)), erase=((184, 26, 101, 101), (63, 8, 132, 61))),
            0.14782376935818664,
        ),
        (
            ("resized-crop", "random-operations", "flip"),
            ViewDraws(flip=(False, True), corner=None, erase=None),
            0.9476625281970003,
        ),
    ],
)
def test_draws_stay_what_they_were(augmentations: tuple[Augmentation, ...], expected: ViewDraws, after: float) -> None:
    """The numbers of runs made so far, and the one that is drawn next."""
    uniform = uniforms(generator_of(seed=3, epoch=1, key="k#0", use="pair"))
    assert draw_views(augmentations, num_views=2, image_px=(384, 128), uniform=uniform) == expected
    assert next(uniform) == after


def test_draws_have_the_stated_distribution() -> None:
    drawn = [draws_of(seed, "flip", "pad-crop", "erase") for seed in range(1500)]
    flips = np.array([one.flip for one in drawn])
    assert np.abs(flips.mean(0) - 0.5).max() < 0.06 and 0.4 < (flips[:, 0] == flips[:, 1]).mean() < 0.6
    corners = np.array([one.corner for one in drawn])
    assert corners.min() == 0 and corners.max() == 20 and np.abs(corners.mean(0) - 10).max() < 1
    boxes = np.array([one.erase for one in drawn]).reshape(-1, 4)
    erased = boxes[boxes[:, 2] > 0]
    # A few of the tall boxes do not fit in ten tries.
    assert 0.44 < len(erased) / len(boxes) < 0.53
    area = erased[:, 2] * erased[:, 3] / (384 * 128)
    assert area.min() > 0.019 and area.max() < 0.41
    assert (erased[:, 0] + erased[:, 2] <= 384).all() and (erased[:, 1] + erased[:, 3] <= 128).all()
    assert draws_of(1, "flip").corner is None and draws_of(1).flip == (False, False)


def changed(seed: int, *augmentations: Augmentation, interpolation: Interpolation = "bicubic") -> Tensor:
    image = host_batch().pixels_BCHW[0].permute(1, 2, 0).numpy().copy()
    uniform = uniforms(torch.Generator().manual_seed(seed))
    made, _ = change_on_host(image, augmentations, image_px=(48, 24), interpolation=interpolation, uniform=uniform, maps={})
    return made


def test_host_augmentation_depends_on_its_numbers_only() -> None:
    both: tuple[Augmentation, ...] = ("resized-crop", "random-operations")
    assert changed(1, *both).shape == (3, 48, 24) and changed(1, *both).dtype == torch.uint8
    assert torch.equal(changed(1, *both), changed(1, *both))
    assert len({changed(seed, *both).numpy().tobytes() for seed in range(8)}) == 8


def test_operations_without_a_crop_see_the_whole_image() -> None:
    whole = changed(0, "flip")
    made = [changed(seed, "random-operations") for seed in range(40)]
    # Neither of two operations is made in a quarter of all cases, and one in ten changes nothing.
    assert 4 < sum(torch.equal(one, whole) for one in made) < 25
    assert not any(torch.equal(changed(seed, "resized-crop"), whole) for seed in range(8))


def test_host_augmentation_resizes_as_it_is_told() -> None:
    assert not torch.equal(changed(1, "resized-crop"), changed(1, "resized-crop", interpolation="bilinear"))
    assert not torch.equal(changed(1, "flip"), changed(1, "flip", interpolation="bilinear"))


def test_operations_change_what_they_say() -> None:
    ramp = np.random.default_rng(0).integers(40, 160, (40, 20, 3)).astype(np.uint8)
    image = Image.fromarray(ramp)
    for number, operation in enumerate(OPERATIONS):
        for sign in (-1, 1):
            changed = operation.of_image(image, sign)
            assert changed.size == image.size and changed.mode == "RGB"
            assert np.array_equal(np.asarray(changed), ramp) == (number == 0), number
    # ALBEF's strengths: brightness 1.36, shift 7 px filled with grey.
    assert np.abs(np.asarray(OPERATIONS[3].of_image(image, 1)).astype(int) - ramp * 1.36).max() <= 1
    shifted = np.asarray(OPERATIONS[7].of_image(image, -1))
    assert (shifted[:, :7] == 128).all() and np.array_equal(shifted[:, 7:], ramp[:, :-7])

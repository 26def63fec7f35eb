import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_folder import jpeg_bytes

from tbps.data.images import decode, resize, resize_exactly


def pil_image(file_bytes: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file_bytes)).convert("RGB")


def planar(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("BMP", "RGBA")],
)
def test_decoded_pixels_are_those_of_pil(kind: str, mode: str) -> None:
    file_bytes = jpeg_bytes(1, height=97, width=53, kind=kind, mode=mode)
    pixels = decode(file_bytes, key="k")
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(pil_image(file_bytes)))


@pytest.mark.parametrize("image_px", [(384, 128), (384, 384), (64, 32), (97, 53)])
def test_evaluation_pixels_are_those_of_pil(image_px: tuple[int, int]) -> None:
    image = pil_image(jpeg_bytes(1, height=97, width=53))
    pixels = resize_exactly(np.array(image), image_px=image_px)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert np.array_equal(pixels.numpy(), planar(image.resize(image_px[::-1], Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("image_px", [(384, 128), (384, 384), (64, 32), (97, 53)])
@pytest.mark.parametrize("source_px", [(97, 53), (246, 90), (378, 142)])
def test_training_pixels_are_those_of_pil_up_to_rounding(source_px: tuple[int, int], image_px: tuple[int, int]) -> None:
    image = pil_image(jpeg_bytes(1, height=source_px[0], width=source_px[1]))
    pixels = resize(np.array(image), image_px=image_px)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    # Rows before columns, which PIL 13 does not always do.
    rows = image.resize((image_px[1], image.height), Image.Resampling.BICUBIC)
    expected = planar(rows.resize(image_px[::-1], Image.Resampling.BICUBIC))
    difference = np.abs(pixels.numpy().astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


def test_training_pixels_are_exact_at_the_usual_size() -> None:
    for number in range(4):
        image = pil_image(jpeg_bytes(number, height=384, width=128))
        expected = planar(image.resize((384, 384), Image.Resampling.BICUBIC))
        assert np.array_equal(resize(np.array(image), image_px=(384, 384)).numpy(), expected)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_file_cut_short_is_named(kind: str, share: float) -> None:
    content = jpeg_bytes(3, height=200, width=100, kind=kind)
    cut = content[: int(len(content) * share)]
    with pytest.raises(ValueError, match=rf"^pair cam/3.jpg#0: its image file \({len(cut)} bytes\) cannot be dec.*again"):
        decode(cut, key="cam/3.jpg#0")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_no_image_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^pair a#1: its image file .* cannot be decoded: cannot identify image"):
        decode(content, key="a#1")

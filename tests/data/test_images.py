import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_folder import jpeg_bytes

from tbps.config.data import Interpolation
from tbps.data.images import decode, resize, resize_exactly, what_changes

PIL = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_pixels_are_those_of_pil(image_px: tuple[int, int], interpolation: Interpolation) -> None:
    image = pil_image(jpeg_bytes(1, height=97, width=53))
    pixels = resize_exactly(np.array(image), image_px=image_px, interpolation=interpolation)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert np.array_equal(pixels.numpy(), planar(image.resize(image_px[::-1], PIL[interpolation])))


@pytest.mark.parametrize("image_px", [(384, 128), (384, 384), (64, 32), (97, 53)])
@pytest.mark.parametrize("source_px", [(97, 53), (246, 90), (378, 142)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_pixels_are_those_of_pil_up_to_rounding(
    source_px: tuple[int, int], image_px: tuple[int, int], interpolation: Interpolation
) -> None:
    image = pil_image(jpeg_bytes(1, height=source_px[0], width=source_px[1]))
    pixels = resize(np.array(image), image_px=image_px, interpolation=interpolation)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    # Rows before columns, which PIL 13 does not always do.
    rows = image.resize((image_px[1], image.height), PIL[interpolation])
    expected = planar(rows.resize(image_px[::-1], PIL[interpolation]))
    difference = np.abs(pixels.numpy().astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


def test_training_pixels_are_exact_at_the_usual_size() -> None:
    for number in range(4):
        image = pil_image(jpeg_bytes(number, height=384, width=128))
        expected = planar(image.resize((384, 384), Image.Resampling.BICUBIC))
        assert np.array_equal(resize(np.array(image), image_px=(384, 384), interpolation="bicubic").numpy(), expected)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_file_cut_short_is_named(kind: str, share: float) -> None:
    content = jpeg_bytes(3, height=200, width=100, kind=kind)
    cut = content[: int(len(content) * share)]
    with pytest.raises(ValueError, match=rf"^pair cam/3.jpg#0: its image file \({len(cut)} bytes\) cannot be dec.*again"):
        decode(cut, key="cam/3.jpg#0")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_no_image_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^pair a#1: its image file .* cannot be decoded: it is "):
        decode(content, key="a#1")


def png(pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "PNG", **options)
    return file.getvalue()


GREY_16 = np.array([[0, 255, 256, 257, 32_768, 65_535]], dtype=np.uint16)


def test_grey_of_16_bits_is_scaled_not_clipped() -> None:
    pixels = decode(png(GREY_16), key="k")
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 6, 3)
    assert pixels[0].tolist() == [[value] * 3 for value in (0, 0, 1, 1, 128, 255)]
    assert what_changes(png(GREY_16)) == ("of more than 8 bits a channel, of which the upper 8 are used",)


def colour_png_of_16_bits() -> bytes:
    """Two pixels, written by hand: PIL cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0, 0x00FF, 0x8000, 0x0100)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_scaled_too() -> None:
    assert decode(colour_png_of_16_bits(), key="k").tolist() == [[[0x12, 0xFF, 0], [0, 0x80, 1]]]
    assert what_changes(colour_png_of_16_bits()) == ("of more than 8 bits a channel, of which the upper 8 are used",)


@pytest.mark.parametrize(
    ("values", "mode"), [(np.float32([[0.0, 0.5, 1.0]]), "F"), (np.int32([[0, 255, 70_000]]), "I"), (GREY_16, "I;16")]
)
def test_pixels_of_unknown_range_are_refused(values: np.ndarray, mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    with pytest.raises(
        ValueError,
        match=rf"^pair a#1: .* cannot be decoded: its pixels are of mode {mode}, and nothing says which value is white;"
        " save it with 8 bits a channel$",
    ):
        decode(file.getvalue(), key="a#1")


RED = np.full((4, 3, 3), (200, 10, 20), dtype=np.uint8)


def _palette_with_transparency() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RED).quantize(2).save(file, "PNG", transparency=bytes([0, 128]))
    return file.getvalue()


def _jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.repeat(RED, 2, axis=0))
    (image.convert("CMYK") if options.pop("cmyk", False) else image).save(file, "JPEG", quality=100, **options)
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _jpeg(exif=exif)


def _frames() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RED).save(file, "GIF", save_all=True, append_images=[Image.fromarray(RED // 2)])
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "change"),
    [
        (png(np.dstack([RED, np.zeros_like(RED[:, :, :1])])), "with transparency, which is dropped"),
        (png(RED, "LA"), "with transparency, which is dropped"),
        (_palette_with_transparency(), "with transparency, which is dropped"),
        (_jpeg(cmyk=True), "in CMYK, converted without a colour profile"),
        (_turned(), "with a rotation in EXIF, which is not applied"),
        (_frames(), "of several frames, of which the first is used"),
    ],
    ids=["RGBA", "LA", "palette", "CMYK", "EXIF", "frames"],
)
def test_what_decoding_leaves_out_is_told(content: bytes, change: str, recwarn: pytest.WarningsRecorder) -> None:
    pixels = decode(content, key="k")
    assert what_changes(content) == (change,)
    assert not recwarn.list
    # The official code's pixels.
    assert np.array_equal(pixels, np.asarray(pil_image(content)))


@pytest.mark.parametrize(
    "content", [_jpeg(), png(RED), png(RED, "L"), png(RED, "P")], ids=["JPEG", "PNG", "grey", "palette"]
)
def test_nothing_is_told_of_ordinary_images(content: bytes) -> None:
    assert what_changes(content) == ()


def test_damage_that_does_not_matter_is_told_and_no_error() -> None:
    second_frame_cut = _frames()[:50]
    assert np.array_equal(decode(second_frame_cut, key="k"), np.asarray(pil_image(_frames())))
    assert what_changes(second_frame_cut) == ("damaged outside the pixels that are used",)


def _bmp(width: int, height: int) -> bytes:
    whole = jpeg_bytes(1, kind="BMP")
    return whole[:18] + struct.pack("<ii", width, height) + whole[26:]


def _tiff(*, width: int) -> bytes:
    """A TIFF whose width, the first entry of its directory, is overwritten."""
    file = io.BytesIO()
    Image.fromarray(RED).save(file, "TIFF")
    whole = bytearray(file.getvalue())
    entry = struct.unpack_from("<I", whole, 4)[0] + 2
    assert struct.unpack_from("<HH", whole, entry)[0] == 256
    struct.pack_into("<HHII", whole, entry, 256, 4, 1, width)
    return bytes(whole)


def _png_of(width: int, height: int) -> bytes:
    whole = bytearray(png(RED))
    struct.pack_into(">II", whole, 16, width, height)
    struct.pack_into(">I", whole, 29, zlib.crc32(whole[12:29]))
    return bytes(whole)


def _jpeg_of(width: int, height: int) -> bytes:
    whole = bytearray(_jpeg())
    start = whole.index(b"\xff\xc0")
    struct.pack_into(">HH", whole, start + 5, height, width)
    return bytes(whole)


def _with_broken_chunk() -> bytes:
    whole = png(RED)
    return whole.replace(b"IDAT", b"ID\0T")


MOSTLY_RANDOM = np.random.default_rng(0).bytes(600)


@pytest.mark.parametrize(
    "content",
    [
        _bmp(2**31 - 1, 1),
        _bmp(2**31 - 1, 2**31 - 1),
        _bmp(0, 5),
        _bmp(100_000, 1000),
        _tiff(width=2**31),
        _tiff(width=2**32 - 1),
        _tiff(width=0),
        _png_of(2**31 - 1, 2**31 - 1),
        _png_of(12_000, 10_000),
        _png_of(0, 0),
        _jpeg_of(65_500, 65_500),
        _jpeg_of(12_000, 10_000),
        _jpeg_of(0, 0),
        _with_broken_chunk(),
        *(whole[:cut] for whole in (png(RED), _tiff(width=3), _frames(), _bmp(16, 48)) for cut in (5, 12, 20, 30)),
        *(
            start + MOSTLY_RANDOM
            for start in (b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF89a", b"\xff\xd8\xff\xe0")
        ),
        *(start + MOSTLY_RANDOM for start in (b"RIFF\x20\0\0\0WEBPVP8 ", b"P6\n9999999999 9999999999\n255\n", b"8BPS\0\1")),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_whatever_a_decoder_raises_is_one_sentence(content: bytes, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ValueError, match=r"^pair cam/3.jpg#0: its image file \(\d+ bytes\) cannot be decoded: ") as told:
        decode(content, key="cam/3.jpg#0")
    sentence = str(told.value)
    assert len(sentence.splitlines()) == 1 and sentence.endswith("; the file is damaged, download it again")
    assert " at 0x" not in sentence and not recwarn.list


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 'it is a git-lfs pointer; .* with "git lfs pull"'),
        (b"<!DOCTYPE html><html></html>", "it is a web page; download the file itself"),
        (b"no image", "it is no image of a known kind; the file is damaged, download it again"),
    ],
)
def test_what_stands_for_an_image_is_named(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^pair a#1: its image file .* cannot be decoded: {told}$"):
        decode(content, key="a#1")


def test_a_scaled_jpeg_is_as_large_as_asked_and_nearly_the_same() -> None:
    file = jpeg_bytes(0, height=512, width=256)
    whole = decode(file, key="")
    assert whole.shape == (512, 256, 3) and np.array_equal(decode(file, key="", at_least_px=(0, 0)), whole)
    assert decode(file, key="", at_least_px=(65, 32)).shape == (128, 64, 3)
    assert decode(file, key="", at_least_px=(129, 10)).shape == (192, 96, 3)
    assert np.array_equal(decode(file, key="", at_least_px=(1024, 64)), whole), "never enlarged"
    expected = resize(whole, image_px=(64, 32), interpolation="bicubic").float()
    differences = []
    for px in (64, 128):
        scaled = decode(file, key="", at_least_px=(px, px // 2))
        differences.append((resize(scaled, image_px=(64, 32), interpolation="bicubic") - expected).abs())
    assert 0 < differences[1].mean() < differences[0].mean() < 4 and differences[1].mean() < 1
    png = jpeg_bytes(0, kind="PNG")
    assert np.array_equal(decode(png, key="", at_least_px=(4, 4)), decode(png, key=""))

"""How pictures are given out: a file as it is where browsers draw it, else JPEG; people cut out of frames, or in them."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from tbps.search.index import Index, Picture
from tbps.search.pictures import Pictures
from tbps.search.row_pixels import frame_of, pixels_of, same_content
from tbps.search.segment import Box
from tbps.serving.blur import with_head_blurred, with_others_blurred

SHOWN_AS_THEY_ARE = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
"""First bytes of files that every browser draws; others are made into JPEG."""
_LINES = ("white", "black")
"""Of the box, one beside the other: seen on any ground."""
_LINE_SHARE = 1 / 250
"""Of the frame's longer side: how wide a line is."""


def thumbnail(index: Index, row: int, *, blurs: bool) -> bytes:
    """JPEG of a row. OSError: the index's file is gone."""
    content = index.thumbnail(row)
    if not blurs:
        return content
    with Image.open(io.BytesIO(content)) as image:
        return as_jpeg(with_head_blurred(image), quality=85)


def picture_as_file(pictures: Pictures, picture: Picture, *, blurs: bool) -> tuple[bytes, str]:
    """A picture as a file, and its media type: a JPEG of a person in a frame or of a video's frame. ValueError: no file."""
    if blurs:
        return as_jpeg(with_head_blurred(Image.fromarray(pixels_of(pictures, picture)))), "image/jpeg"
    if picture.box is None and picture.offset_ms is None:
        content = same_content(pictures, picture)
        kind = next((kind for start, kind in SHOWN_AS_THEY_ARE.items() if content.startswith(start)), None)
        if kind is not None:
            return content, kind
    return as_jpeg(Image.fromarray(pixels_of(pictures, picture))), "image/jpeg"


def frame_with_box(pictures: Pictures, picture: Picture, *, blurs: bool) -> bytes:
    """JPEG of the whole frame, with the box where the person is. ValueError: it cannot be read, or holds no box.

    blurs: the head, and everything around the box: others may stand there whom the detector has not found.
    """
    if picture.box is None:
        raise ValueError("it was not cut out of a frame")
    frame = Image.fromarray(frame_of(pictures, picture))
    if blurs:
        frame = with_others_blurred(frame, picture.box)
    _draw_box(frame, picture.box)
    return as_jpeg(frame)


def _draw_box(frame: Image.Image, box: Box) -> None:
    """Around it, so that nothing of the person is hidden but at the frame's edge."""
    left, top, right, bottom = box
    wide, draw = max(2, round(max(frame.size) * _LINE_SHARE)), ImageDraw.Draw(frame)
    for number, colour in enumerate(_LINES, start=1):
        out = number * wide
        edges = (left - out, top - out, right + out - 1, bottom + out - 1)
        draw.rectangle(edges, outline=colour, width=wide)


def as_jpeg(image: Image.Image, *, quality: int = 95) -> bytes:
    """The file's bytes, with nothing but pixels."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()

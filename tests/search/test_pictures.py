"""Whatever lies in a folder: what is a picture is indexed as a viewer shows it, the rest is named with a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from indexing import bring_up_to_date
from PIL import Image

from tbps.data.images import decode, resize_exactly
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.pictures import FolderPictures, shown_path
from tbps.search.preparing import upright_pixels

HOSTILE_NAMES = ("<img src=x onerror=alert(1)>.png", "line\nbreak\x1b[31m.png", "\udcff\udcfe.png", '"quote" \'s & co.png')


def picture(*, size: tuple[int, int] = (24, 48), mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def bomb() -> bytes:
    """A PNG whose header claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def write_all(folder: Path) -> None:
    folder.mkdir()
    picture().save(folder / "good.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "half.png").write_bytes((folder / "good.png").read_bytes()[:200])
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (folder / "notes.txt").write_text("no picture")
    (folder / "text-without-ending").write_text("no picture")
    (folder / "bomb.png").write_bytes(bomb())
    picture(size=(1, 1)).save(folder / "dot.png")
    os.mkfifo(folder / "pipe.jpg")
    picture(mode="CMYK", seed=1).save(folder / "cmyk.jpg")
    picture(seed=2).save(folder / "animated.gif", save_all=True, append_images=[picture(seed=3)], duration=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8769)[0x9011] = "+02:00"
    picture(size=(48, 24), seed=4).save(folder / "turned.jpg", exif=exif, quality=95)
    for number, name in enumerate(HOSTILE_NAMES):
        picture(seed=10 + number).save(folder / name, format="PNG")


def test_pictures_are_indexed_and_the_rest_is_listed_with_reasons(model: SearchModel, tmp_path: Path) -> None:
    write_all(tmp_path / "pictures")
    outcome = bring_up_to_date(tmp_path / "pictures", tmp_path / "index", model, workers=1)
    reasons = {shown_path(problem.path): problem.reason for problem in outcome.skipped}
    expected = {
        "bomb.png": "2500000000 pixels",
        "broken.jpg": "cannot be decoded",
        "dot.png": "1 x 1 pixels, expected at least 8 x 8",
        "empty.jpg": "it is an empty file; download it again",
        "half.png": "cannot be decoded",
        "notes.txt": "no picture by its name (.txt)",
        "page.jpg": "it is a web page",
        "pipe.jpg": "no file: a pipe",
        "text-without-ending": "it is no image of a known kind",
    }
    assert list(reasons) == sorted(expected)
    for name, part in expected.items():
        assert part in reasons[name] and "pair" not in reasons[name], (name, reasons[name])
    notes = {shown_path(note.path): note.reason for note in outcome.notes}
    assert notes == {
        "animated.gif": "of several frames, of which the first is used",
        "cmyk.jpg": "in CMYK, converted without a colour profile",
        "turned.jpg": "turned as its EXIF says",
    }
    assert outcome.num_pictures == outcome.counts["encoded"] == 4 + len(HOSTILE_NAMES)
    again = bring_up_to_date(tmp_path / "pictures", tmp_path / "index", model)
    assert (again.counts["unchanged"], again.skipped, again.notes) == (8, outcome.skipped, outcome.notes)
    (tmp_path / "pictures" / "broken.jpg").unlink()
    (tmp_path / "pictures" / "empty.jpg").write_bytes((tmp_path / "pictures" / "good.png").read_bytes())
    (tmp_path / "pictures" / "good.png").write_bytes(b"no more")
    mended = bring_up_to_date(tmp_path / "pictures", tmp_path / "index", model)
    named = [shown_path(problem.path) for problem in mended.skipped]
    assert "broken.jpg" not in named and "empty.jpg" not in named and "good.png" in named
    assert mended.num_pictures == outcome.num_pictures


def test_a_rotation_in_exif_is_applied_and_its_time_taken(model: SearchModel, tmp_path: Path) -> None:
    write_all(tmp_path / "pictures")
    bring_up_to_date(tmp_path / "pictures", tmp_path / "index", model)
    index = Index.open(tmp_path / "index")
    row = list(index.paths()).index(b"turned.jpg")
    turned = index.picture(row)
    assert (turned.width_px, turned.height_px) == (24, 48)
    assert turned.taken_s == datetime.fromisoformat("2024-05-06T07:08:09+02:00").timestamp()
    with Image.open(io.BytesIO(index.thumbnail(row))) as thumbnail:
        assert thumbnail.size == (24, 48)
    content = (tmp_path / "pictures" / "turned.jpg").read_bytes()
    upright_HWC = np.rot90(decode(content, key=""), k=3)
    assert np.array_equal(upright_pixels(content)[0], upright_HWC)
    pixels = resize_exactly(
        np.ascontiguousarray(upright_HWC), image_px=model.image_px, interpolation=model.pixels.interpolation
    )
    # Embedded alone here and among others there.
    alone = model.embed_pixels(pixels[None]).feature_IE[0].numpy()
    assert np.allclose(index.feature(row), alone, atol=2e-3)
    good = index.picture(list(index.paths()).index(b"good.png"))
    assert good.taken_s == int((tmp_path / "pictures" / "good.png").stat().st_mtime)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_as_viewers_show_it(orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture(size=(16, 32)).save(file, "PNG", exif=exif)
    upright_HWC, note = upright_pixels(file.getvalue())
    own = np.asarray(picture(size=(16, 32)))
    mirrored = {2: own[:, ::-1], 4: own[::-1], 5: own.transpose(1, 0, 2), 7: own[::-1, ::-1].transpose(1, 0, 2)}
    expected = {1: own, 3: own[::-1, ::-1], 6: np.rot90(own, 3), 8: np.rot90(own), **mirrored}[orientation]
    assert np.array_equal(upright_HWC, expected)
    assert note == ("" if orientation == 1 else "turned as its EXIF says")


def test_links_out_of_the_folder_are_said_and_never_read(model: SearchModel, tmp_path: Path) -> None:
    folder, outside = tmp_path / "pictures", tmp_path / "outside"
    for each in (folder, folder / "inside", outside):
        each.mkdir()
    picture().save(outside / "secret.png")
    picture(seed=1).save(folder / "inside" / "own.png")
    (folder / "file.png").symlink_to(outside / "secret.png")
    (folder / "folder").symlink_to(outside)
    (folder / "nowhere.png").symlink_to("missing.png")
    (folder / "loop").symlink_to(folder)
    (folder / "same.png").symlink_to("inside/own.png")
    outcome = bring_up_to_date(folder, tmp_path / "index", model)
    assert {problem.path: problem.reason for problem in outcome.skipped} == {
        b"file.png": "a symbolic link out of the folder, which is not followed",
        b"folder": "a symbolic link out of the folder, which is not followed",
        b"loop": "a symbolic link to a folder, whose pictures are indexed where they lie",
        b"nowhere.png": "a symbolic link to nowhere",
    }
    assert sorted(Index.open(tmp_path / "index").paths()) == [b"inside/own.png", b"same.png"]
    for path in (b"file.png", b"../outside/secret.png", b"folder/secret.png", os.fsencode(outside / "secret.png")):
        with pytest.raises(ValueError, match="it leads out of"):
            FolderPictures(folder).read(path)
    sibling = tmp_path / "pictures-too"
    sibling.mkdir()
    picture().save(sibling / "secret.png")
    with pytest.raises(ValueError, match="it leads out of"):
        FolderPictures(folder).read(b"../pictures-too/secret.png")


def test_pictures_of_a_folder_that_may_not_be_read_any_more_stay(model: SearchModel, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "shut").mkdir(parents=True)
    picture().save(folder / "open.png")
    picture(seed=1).save(folder / "shut" / "inside.png")
    (folder / "shut" / "broken.png").write_bytes(b"no picture")
    bring_up_to_date(folder, tmp_path / "index", model)
    (folder / "open.png").unlink()
    (folder / "shut").chmod(0)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    user = os.geteuid()
    os.seteuid(65534)  # root may read everything
    try:
        listing = FolderPictures(folder).listing()
    finally:
        os.seteuid(user)
    assert listing.unread == [b"shut/"] and not listing.found
    assert [problem.reason for problem in listing.problems] == ["a folder that cannot be read (Permission denied)"]
    from tbps.search.changes import find_changes

    changes = find_changes(Index.open(tmp_path / "index"), listing, check=False)
    assert (list(changes.gone), changes.num_unseen, changes.forgotten) == ([b"open.png"], 1, [])
    (folder / "shut").chmod(0o755)


def test_a_camera_is_what_the_pattern_finds_in_the_path(model: SearchModel, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "cam_a").mkdir(parents=True)
    picture().save(folder / "cam_a" / "0001_c3.png")
    bring_up_to_date(folder, tmp_path / "index", model)
    assert Index.open(tmp_path / "index").picture(0).camera == "cam_a"
    again = bring_up_to_date(folder, tmp_path / "index", model, camera=r"_c(\d+)")
    assert Index.open(tmp_path / "index").picture(0).camera == "3" and again.counts["encoded"] == 0
    bring_up_to_date(folder, tmp_path / "index", model)
    assert Index.open(tmp_path / "index").picture(0).camera == "3"

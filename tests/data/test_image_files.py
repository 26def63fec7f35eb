import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_folder import jpeg_bytes, make_data, write_folder

from tbps.config.data import Benchmark
from tbps.data.dataset_doctor import examine
from tbps.data.image_files import ImageFiles, MissingImage
from tbps.data.pairs import open_pairs


def test_other_places_and_extensions(tmp_path: Path) -> None:
    for file in (
        "imgs/a/1.png",
        "b/2.jpg",
        "gene_crop/c_g_a_3/4.jpg",
        "images/gene_crop/4x/5.jpg",
        "data/gene_crop/i_g_a/6.jpg",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(file.encode())
    found: list[tuple[Benchmark, str, str]] = [
        ("cuhk-pedes", "a/1.jpg", "imgs/a/1.png"),
        ("icfg-pedes", "b/2.jpg", "b/2.jpg"),
        # The README's tree of MALS and its rows disagree about gene_crop.
        ("mals", "gene_crop/c_g_a_3/4.jpg", "gene_crop/c_g_a_3/4.jpg"),
        ("mals", "c_g_a_3/4.jpg", "gene_crop/c_g_a_3/4.jpg"),
        ("mals", "gene_crop/4x/5.jpg", "images/gene_crop/4x/5.jpg"),
        ("mals", "4x/5.jpg", "images/gene_crop/4x/5.jpg"),
        ("mals", "gene_crop/i_g_a/6.jpg", "data/gene_crop/i_g_a/6.jpg"),
        ("mals", "i_g_a/6.jpg", "data/gene_crop/i_g_a/6.jpg"),
    ]
    for benchmark, image_path, file in found:
        files = ImageFiles(tmp_path, benchmark)
        assert files.find(image_path) == tmp_path / file
        assert pickle.loads(pickle.dumps(files)).read(image_path) == file.encode()
    with pytest.raises(MissingImage, match=r"^image b/3.jpg is not below"):
        ImageFiles(tmp_path, "icfg-pedes").read("b/3.jpg")


@pytest.mark.parametrize(
    ("annotated", "there", "found"),
    [
        ("cam/b.PNG", ["cam/b.png"], "cam/b.png"),
        ("cam/b.png", ["cam/b.PNG"], "cam/b.PNG"),
        ("cam/B.jpg", ["cam/b.jpg"], "cam/b.jpg"),
        ("Cam/b.jpg", ["cam/b.JPEG"], "cam/b.JPEG"),
        ("cam/caf\u00e9.jpg", ["cam/cafe\u0301.jpg"], "cam/cafe\u0301.jpg"),
        # the annotated extension before others, then the annotated capital letters
        ("cam/b.PNG", ["cam/b.jpg", "cam/B.png", "cam/b.png"], "cam/b.png"),
        ("cam/b.PNG", ["cam/b.jpg", "cam/b.bmp"], "cam/b.jpg"),
        # what looks like an extension and is none stays
        ("cam/0001.c1", ["cam/0001.jpg"], None),
        ("cam/0001.c1", ["cam/0001.c1.jpg", "cam/0001.c2.jpg"], "cam/0001.c1.jpg"),
        ("cam/b.jpg", ["cam/b.txt", "cam/bb.jpg"], None),
    ],
)
def test_other_capital_letters(tmp_path: Path, annotated: str, there: list[str], found: str | None) -> None:
    for file in there:
        (tmp_path / "imgs" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "imgs" / file).write_bytes(b"x")
    files = ImageFiles(tmp_path, "cuhk-pedes")
    if found:
        assert files.find(annotated) == tmp_path / "imgs" / found
    else:
        with pytest.raises(MissingImage):
            files.find(annotated)


def _socket(file: Path) -> None:
    os.chdir(file.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(file.name)


OBSTACLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling link": (lambda file: file.symlink_to("nowhere.jpg"), "is a link to nowhere, expected a file"),
    "link in a circle": (lambda file: file.symlink_to(file.name), "is a link to nowhere, expected a file"),
    "folder": (lambda file: file.mkdir(), "is a folder, expected a file"),
    "pipe": (os.mkfifo, "is a pipe, expected a file"),
    "socket": (_socket, "is a socket, expected a file"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "is a device, expected a file"),
    "empty": (lambda file: file.touch(), "is an empty file"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_training_refuses_the_doctor_lists(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, told = OBSTACLES[name]
    path = write_folder(tmp_path, "cuhk-pedes")[1]["file_path"]
    file = tmp_path / "imgs" / path
    file.unlink()
    make(file)
    with pytest.raises(ValueError, match=rf"^pair {path}#1: image {path}: .*{path} {told}; run \"tbps data doctor --all\""):
        open_pairs(make_data(tmp_path)).image_bytes(3)
    for decode, workers in ((False, 1), (True, 1)):
        report = examine(tmp_path, "cuhk-pedes", decode=decode, workers=workers)
        assert not report.usable
        assert f"ERROR: 1 images that cannot be read: {path} ({file} {told})\n" in report.text()
        assert not decode or "11 of 12 images decoded" in report.text()
    if name != "empty":  # which is a file, so nothing else is taken for it
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(jpeg_bytes(1))
        assert open_pairs(make_data(tmp_path)).image_bytes(3) == jpeg_bytes(1)
        assert examine(tmp_path, "cuhk-pedes", decode=True, workers=1).usable


def test_what_may_not_be_read(tmp_path: Path) -> None:
    path = write_folder(tmp_path, "cuhk-pedes")[0]["file_path"]
    (tmp_path / "imgs" / path).chmod(0)
    for folder in (tmp_path, *tmp_path.parents):  # those of pytest are closed to others
        if (mode := folder.stat().st_mode) & 0o005 != 0o005:
            folder.chmod(mode | 0o055)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(
            ValueError, match=rf"^pair {path}#0: image {path}: .*{path} may not be read \(Permission denied\)"
        ):
            open_pairs(make_data(tmp_path)).image_bytes(0)
        report = examine(tmp_path, "cuhk-pedes", decode=True, workers=1)
    finally:
        os.seteuid(user)
    assert not report.usable and f"ERROR: 1 images that cannot be read: {path} (" in report.text()
    assert "11 of 12 images decoded" in report.text()

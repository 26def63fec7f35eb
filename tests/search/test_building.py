"""Indexing tells what is new, changed, moved and gone, embeds as evaluation does, and may be killed at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from indexing import bring_up_to_date, content, copy_pictures, in_a_process
from small_world import World, assert_one_sentence, call

from tbps.data.annotations import read_annotations
from tbps.data.loader import load_gallery
from tbps.data.pairs import EvaluationSet, FolderPairs
from tbps.data.shard_writer import write_shards
from tbps.data.views import normalise_pixels
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.writing import only_writer


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    """Sixty pictures."""
    copy_pictures(world.cuhk_pedes, tmp_path / "pictures", number=60)
    return tmp_path / "pictures"


def live(index: Path) -> dict[str, int]:
    opened = Index.open(index)
    return {opened.picture(row).name: row for row in range(opened.num_rows) if opened.live_N[row]}


def test_features_are_those_of_an_evaluation(world: World, model: SearchModel, tmp_path: Path) -> None:
    source = FolderPairs(world.cuhk_pedes, "cuhk-pedes", read_annotations(world.cuhk_pedes, "cuhk-pedes").split("test"))
    gallery = EvaluationSet(source)
    paths = [f"imgs/{gallery.gallery_key(image)}" for image in range(gallery.num_gallery)]
    listed = world.folder / "cuhk-pedes-test.txt"
    (tmp_path / "list.txt").write_text("\n".join([*paths, *paths[:3], "../clip.safetensors", "imgs"]))
    shutil.copy(tmp_path / "list.txt", listed)
    pictures = tmp_path / "cuhk-pedes"
    shutil.copytree(world.cuhk_pedes / "imgs", pictures / "imgs")
    shutil.move(tmp_path / "list.txt", pictures / "list.txt")
    outcome = bring_up_to_date(pictures / "list.txt", tmp_path / "index", model)
    assert outcome.num_pictures == outcome.counts["encoded"] == gallery.num_gallery
    assert [problem.path for problem in outcome.skipped] == [b"../clip.safetensors", b"imgs"]
    order = sorted(range(gallery.num_gallery), key=lambda image: paths[image].encode())
    loaded = load_gallery(gallery, order, image_px=model.image_px, pixels=model.pixels, batch_images=8, workers=0)
    with torch.no_grad():
        blocks = [model.method.embed_image_features(normalise_pixels(pixels, model.pixels)) for pixels in loaded]
    expected = torch.cat(blocks).half().numpy()
    found = Index.open(tmp_path / "index")
    assert [path.decode() for path in found.paths()] == [paths[image] for image in order]
    assert np.array_equal(np.concatenate([block for _, block in found.blocks()]), expected)


def test_what_has_changed_is_told_and_nothing_else_is_read(folder: Path, model: SearchModel, tmp_path: Path) -> None:
    index = tmp_path / "index"
    first = bring_up_to_date(folder, index, model, workers=2)
    assert (first.counts["new"], first.counts["encoded"], first.num_pictures) == (60, 60, 60)
    before = content(index)
    again = bring_up_to_date(folder, index, model)
    assert (again.counts["unchanged"], again.counts["encoded"], again.digest) == (60, 0, first.digest)
    assert content(index) == before
    old = Index.open(index)
    rows = live(index)
    (folder / "deep").mkdir()
    (folder / "000.jpg").rename(folder / "deep" / "moved.jpg")
    shutil.copy(folder / "001.jpg", folder / "copy.jpg")
    (folder / "002.jpg").write_bytes((folder / "003.jpg").read_bytes() + b" ")  # another picture, with a byte behind its end
    os.utime(folder / "004.jpg", (1, 1))
    (folder / "005.jpg").unlink()
    second = bring_up_to_date(folder, index, model, workers=1)
    counts = {name: number for name, number in second.counts.items() if number}
    expected = {"unchanged": 56, "moved": 1, "new": 1, "copies": 1, "changed": 1, "touched": 1, "deleted": 1, "encoded": 1}
    assert counts == expected
    new, now = Index.open(index), live(index)
    assert len(now) == second.num_pictures == 60 and "005.jpg" not in now and "000.jpg" not in now
    for name, before_name in (("deep/moved.jpg", "000.jpg"), ("copy.jpg", "001.jpg"), ("004.jpg", "004.jpg")):
        assert np.array_equal(new.feature(now[name]), old.feature(rows[before_name]))
        assert new.thumbnail(now[name]) == old.thumbnail(rows[before_name]) != b""
        assert new.picture(now[name]).width_px == old.picture(rows[before_name]).width_px > 0
    assert new.picture(now["004.jpg"]).taken_s == 1 and new.picture(now["deep/moved.jpg"]).camera == "deep"
    assert now["006.jpg"] == rows["006.jpg"]


def test_a_copy_is_embedded_once_though_it_comes_in_the_same_call(folder: Path, model: SearchModel, tmp_path: Path) -> None:
    shutil.copy(folder / "000.jpg", folder / "copy.jpg")  # in a later segment
    outcome = bring_up_to_date(folder, tmp_path / "index", model)
    assert (outcome.counts["encoded"], outcome.counts["copies"], outcome.num_pictures) == (60, 1, 61)
    index, rows = Index.open(tmp_path / "index"), live(tmp_path / "index")
    assert np.array_equal(index.feature(rows["copy.jpg"]), index.feature(rows["000.jpg"]))


def test_a_change_behind_the_back_of_a_time_is_found_by_check(folder: Path, model: SearchModel, tmp_path: Path) -> None:
    file = folder / "007.jpg"
    bring_up_to_date(folder, tmp_path / "index", model)
    status = file.stat()
    changed = bytearray(file.read_bytes())
    changed[-200] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert bring_up_to_date(folder, tmp_path / "index", model).counts["changed"] == 0
    checked = bring_up_to_date(folder, tmp_path / "index", model, check=True)
    assert (checked.counts["changed"], checked.counts["unchanged"], checked.counts["encoded"]) == (1, 59, 1)


def test_shards_are_indexed_as_their_folder(world: World, model: SearchModel, tmp_path: Path) -> None:
    outcome = bring_up_to_date(world.shards, tmp_path / "index", model, workers=1)
    assert outcome.num_pictures == outcome.counts["encoded"] == 64 and not outcome.skipped
    assert bring_up_to_date(world.shards, tmp_path / "index", model).counts["unchanged"] == 64
    write_shards(world.cuhk_pedes, "cuhk-pedes", tmp_path / "shards")
    test = bring_up_to_date(tmp_path / "shards", tmp_path / "test", model, split="test")
    flat = bring_up_to_date(world.cuhk_pedes / "imgs", tmp_path / "flat", model)
    by_name = {path: row for row, path in enumerate(Index.open(tmp_path / "flat").paths())}
    opened, whole = Index.open(tmp_path / "test"), Index.open(tmp_path / "flat")
    assert 0 < test.num_pictures < flat.num_pictures
    for row, path in enumerate(opened.paths()):
        torch.testing.assert_close(opened.feature(row), whole.feature(by_name[path]), atol=1e-3, rtol=0)


def _index_until(folder: Path, index: Path, model: SearchModel, calls: int, killed_in_ms: int) -> None:
    """Killed so many milliseconds after some blocks: while pictures are decoded, embedded, written or committed."""

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls -= 1
        if calls == 0:
            signal.setitimer(signal.ITIMER_REAL, max(killed_in_ms, 1) / 1000)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    bring_up_to_date(folder, index, model, workers=1, progress=progress)


def test_killed_at_ten_moments_it_ends_with_the_same_bytes(
    folder: Path, world: World, model: SearchModel, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(world.mals.rglob("*.jpg"))):
        shutil.copy2(path, folder / f"mals-{number:03d}.jpg")
    (folder / "050-broken.jpg").write_bytes(b"\xff\xd8 no picture")
    whole = bring_up_to_date(folder, tmp_path / "whole", model, workers=1)
    assert len(Index.open(tmp_path / "whole").manifest.segments) >= 3
    killed, sizes = 0, set()
    for moment in range(10):
        process = in_a_process(_index_until, folder, tmp_path / "killed", model, 1 + moment % 5, moment * 3)
        process.join(60)
        killed += process.exitcode == -signal.SIGKILL
        sizes.add(Index.open(tmp_path / "killed").num_rows)
    assert killed >= 4 and len(sizes) >= 2, (killed, sizes)
    ended = bring_up_to_date(folder, tmp_path / "killed", model, workers=1)
    assert ended.digest == whole.digest and ended.num_pictures == whole.num_pictures
    bytes_of_killed, bytes_of_whole = content(tmp_path / "killed"), content(tmp_path / "whole")
    assert bytes_of_killed == bytes_of_whole


def _as_rank(rank: int, folder: Path, index: Path, model: SearchModel, meeting: Path) -> None:
    from tbps.evaluation.ranks import Ranks
    from tbps.search.building import index_pictures
    from tbps.search.pictures import open_pictures

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    assert Ranks.current().size == 2
    outcome = index_pictures(open_pictures(folder, index=index), index, model, workers=1)
    assert outcome.num_pictures == 60
    dist.destroy_process_group()
    os._exit(0)


def test_two_processes_write_the_same_bytes_as_one(folder: Path, model: SearchModel, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bring_up_to_date(folder, tmp_path / "one", model)
    bring_up_to_date(empty, tmp_path / "two", model)
    manifest = (tmp_path / "two" / "manifest.json").read_text().replace(str(empty), str(folder))
    (tmp_path / "two" / "manifest.json").write_text(manifest)
    ranks = [in_a_process(_as_rank, rank, folder, tmp_path / "two", model, tmp_path / "meeting") for rank in range(2)]
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert content(tmp_path / "two") == content(tmp_path / "one")


def _hold(index: Path, held: str) -> None:
    with only_writer(index):
        Path(held).touch()
        time.sleep(60)


def test_a_second_writer_is_refused(folder: Path, model: SearchModel, tmp_path: Path) -> None:
    holder = in_a_process(_hold, tmp_path / "index", str(tmp_path / "held"))
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    try:
        with pytest.raises(ValueError, match=rf"is being written by process {holder.pid} on .*; wait until it is done"):
            bring_up_to_date(folder, tmp_path / "index", model)
    finally:
        holder.kill()
        holder.join()
    assert bring_up_to_date(folder, tmp_path / "index", model).num_pictures == 60


def test_other_weights_other_pictures_and_an_empty_disk_are_refused(
    folder: Path, model: SearchModel, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    bring_up_to_date(folder, index, model)
    with pytest.raises(ValueError, match=r"features of weights with sha256 .{12} \(.*\), and other has a{12}, expected"):
        bring_up_to_date(folder, index, replace(model, weights_sha256="a" * 64, source="other"))
    with pytest.raises(ValueError, match=r"made with other preprocessing than .*: image_px differ"):
        bring_up_to_date(folder, index, replace(model, image_px=(32, 16)))
    (tmp_path / "others").mkdir()
    with pytest.raises(ValueError, match=r"is an index of .*pictures, expected .*others; one index holds one folder"):
        bring_up_to_date(tmp_path / "others", index, model)
    with pytest.raises(ValueError, match=r"--camera '\(' is no regular expression"):
        bring_up_to_date(folder, index, model, camera="(")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"holds no picture, and .* knows 60 there: is a disk not mounted"):
        bring_up_to_date(folder, index, model)
    damaged = index / "segment-000001.features"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"segment-000001.features has \d+ bytes, expected \d+; copy the index"):
        Index.open(index)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "none", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_and_gone_on_from(folder: Path, disk: Path, model: SearchModel, tmp_path: Path) -> None:
    whole = bring_up_to_date(folder, tmp_path / "index", model)
    with pytest.raises(
        OSError, match=r"index cannot be written: No space left on device; the 32 pictures that it holds stay; make room"
    ):
        bring_up_to_date(folder, disk / "index", model)
    assert Index.open(disk / "index").num_pictures == 32
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    ended = bring_up_to_date(folder, disk / "index", model)
    assert (ended.digest, ended.counts["encoded"]) == (whole.digest, 28)


def test_the_command(world: World, matching_run: Path, tmp_path: Path) -> None:
    copy_pictures(world.mals, tmp_path / "pictures", number=20)
    words = (sys.executable, "-m", "tbps.command", "index", str(tmp_path / "pictures"), str(tmp_path / "pictures" / "index"))
    assert_one_sentence(
        call(*words).stderr, "is a new index, expected the run whose weights embed its pictures; add --run RUN"
    )
    done = call(*words, "--run", str(matching_run))
    assert done.returncode == 0, done.stderr
    assert "20 pictures of" in done.stdout and "(20 new)" in done.stdout and "20 of 20 pictures," in done.stderr
    again = call(*words)
    assert "(20 unchanged)" in again.stdout and "0 encoded by" in again.stdout  # what lies in the index is not indexed
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]

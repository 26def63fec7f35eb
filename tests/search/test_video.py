"""A frame of a video every so many seconds is a picture, and people in it are cut out; damaged videos give what decodes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from indexing import bring_up_to_date, content
from numpy.typing import NDArray
from PIL import Image
from toy_detector import NAME, make_frame
from toy_video import write_video

from tbps.command import main
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.people import Detector
from tbps.search.query import Query
from tbps.search.searcher import Searcher
from tbps.search.video import read_frame, read_frames, read_head

SHADES = tuple(range(10, 250, 12))
"""Of each half second of a video: 10 s in all."""


def shaded() -> list[NDArray[np.uint8]]:
    """A hundred frames, five of each shade, 10 a second."""
    return [np.full((64, 48, 3), shade, np.uint8) for shade in SHADES for _ in range(5)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.webm", "libvpx"), ("a.mpg", "mpeg2video")],
)
def test_frames_are_the_same_from_the_beginning_and_sought(name: str, codec: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, shaded(), codec=codec, rate=25 if codec == "mpeg2video" else 10)
    last_ms = 3960 if codec == "mpeg2video" else 9900
    with (tmp_path / name).open("rb") as file:
        head = read_head(file)
        assert abs(head.last_ms - last_ms) <= 300 and head.created_s is None
        moments = head.last_ms // 700 + 1
        whole = list(read_frames(file, range(moments), every_ms=700))
        parts = [frame for k in range(moments) for frame in read_frames(file, range(k, k + 1), every_ms=700)]
        assert [frame.offset_ms for frame in whole] == [frame.offset_ms for frame in parts] and len(whole) == moments
        for frame, again in zip(whole, parts, strict=True):
            assert frame.offset_ms is not None and np.array_equal(frame.pixels_HWC, again.pixels_HWC)
            assert np.array_equal(read_frame(file, frame.offset_ms), frame.pixels_HWC)
            expected = SHADES[frame.offset_ms // (200 if codec == "mpeg2video" else 500)]
            assert abs(frame.pixels_HWC.mean() - expected) < 4 and 0 <= frame.offset_ms % 700 < 100


def test_each_moment_is_a_picture_with_its_time(model: SearchModel, tmp_path: Path) -> None:
    folder, index = tmp_path / "videos", tmp_path / "index"
    folder.mkdir()
    write_video(folder / "a.mp4", shaded())
    Image.fromarray(shaded()[0]).save(folder / "b.png")
    os.utime(folder / "a.mp4", (1_700_000_000, 1_700_000_000))
    outcome = bring_up_to_date(folder, index, model, every_s=2.0, workers=1)
    assert (outcome.num_pictures, outcome.num_files, outcome.counts["new"], outcome.counts["encoded"]) == (6, 2, 2, 6)
    opened = Index.open(index)
    pictures = [opened.picture(row) for row in range(6)]
    times = ["0.000", "2.000", "4.000", "6.000", "8.000"]
    assert [picture.name for picture in pictures] == [*(f"a.mp4#t={at}" for at in times), "b.png"]
    assert [picture.taken_s - 1_700_000_000 for picture in pictures[:5]] == [0, 2, 4, 6, 8]
    assert pictures[5].offset_ms is None and outcome.notes == outcome.skipped == ()
    found = Searcher(opened, model).search(Query.of("a man"), top=6, rerank=6)
    assert not found.remarks and all(hit.score is not None for hit in found.hits)
    before = content(index)
    again = bring_up_to_date(folder, index, model, every_s=2.0)
    assert again.counts["unchanged"] == 2 and content(index) == before
    (folder / "a.mp4").rename(folder / "moved.mp4")
    moved = bring_up_to_date(folder, index, model, every_s=2.0)
    assert (moved.counts["moved"], moved.counts["encoded"], moved.num_pictures) == (1, 0, 6)
    now = Index.open(index)
    assert [now.picture(row).name for row in range(6, 11)] == [f"moved.mp4#t={at}" for at in times]
    assert [now.feature(row).tobytes() for row in range(6, 11)] == [opened.feature(row).tobytes() for row in range(5)]
    (folder / "moved.mp4").write_bytes(b"another" * 1000)
    found = Searcher(now, model).search(Query.of("a man"), top=6, rerank=6)
    assert any(
        "#t=2.000 is not re-ranked: its file has changed since it was indexed; run tbps" in said for said in found.remarks
    )


@pytest.mark.parametrize(("created", "second"), [("2024-05-01T12:00:00Z", 1714564800), ("1904-01-01T00:00:00Z", None)])
def test_a_video_says_when_it_was_begun(created: str, second: int | None, model: SearchModel, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", shaded()[:40], created=created)
    os.utime(tmp_path / "a.mp4", (5000, 5000))
    bring_up_to_date(tmp_path, tmp_path / "index", model, every_s=1.5)
    opened = Index.open(tmp_path / "index")
    begun = 5000 if second is None else second
    assert [opened.picture(row).taken_s for row in range(opened.num_rows)] == [begun, begun + 1, begun + 3]


@pytest.mark.xdist_group("people in frames")
def test_people_in_videos_are_cut_out_in_parts_as_in_pictures(
    people: list[Path], model: SearchModel, detector: Detector, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    scenes = [make_frame(people, 100 + number, number % 3 * 2)[0] for number in range(12)]
    write_video(folder / "a.mp4", [scene for scene in scenes for _ in range(2)], rate=2)
    write_video(folder / "empty.mp4", [scenes[0]] * 4, rate=2)
    outcome = bring_up_to_date(folder, tmp_path / "index", model, detector=detector, every_s=1.0)
    opened = Index.open(tmp_path / "index")
    with (folder / "a.mp4").open("rb") as file:
        frames = list(read_frames(file, range(12), every_ms=1000))
    expected = [(frame.offset_ms, box) for frame in frames for box in detector.boxes(frame.pixels_HWC)]
    pictures = [opened.picture(row) for row in range(opened.num_rows)]
    assert [(picture.offset_ms, picture.box) for picture in pictures] == expected and len(frames) == 12 > 8
    empty = sum(not detector.boxes(frame.pixels_HWC) for frame in frames)
    assert [note.reason for note in outcome.notes] == [f"nobody is found in {empty} of its 12 frames"] and empty >= 4
    (skipped,) = outcome.skipped
    assert skipped.reason == "nobody is found in any of its 2 frames (score at least 0.7, height at least 48 pixels)"
    again = bring_up_to_date(folder, tmp_path / "parallel", model, detector=detector, every_s=1.0, workers=2)
    assert again.digest == outcome.digest


def test_damaged_videos_give_what_decodes_and_say_so(
    model: SearchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = tmp_path / "videos", tmp_path / "whole.mp4"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 48, 3), dtype=np.uint8)
    write_video(whole, list(np.repeat(noise, 5, axis=0)))
    bytes_of = whole.read_bytes()
    (folder / "cut.mp4").write_bytes(bytes_of[: len(bytes_of) // 2])
    (folder / "headless.mp4").write_bytes(bytes_of[2000:])
    (folder / "empty.avi").touch()
    monkeypatch.chdir(tmp_path)  # FFmpeg reads a list's files from there
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    (folder / "playlist.ts").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{whole}\n#EXT-X-ENDLIST\n")
    with av.open(str(folder / "sound.mp4"), "w") as video:
        stream = video.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        video.mux([*stream.encode(frame), *stream.encode()])
    outcome = bring_up_to_date(folder, tmp_path / "index", model, every_s=0.5)
    told = {problem.path.decode(): problem.reason for problem in outcome.skipped}
    assert set(told) == {"headless.mp4", "empty.avi", "list.mp4", "playlist.ts", "sound.mp4"}
    assert told.pop("sound.mp4") == "it holds no video"
    assert all(reason.startswith("it cannot be read as a video (") for reason in told.values()), told
    (note,) = outcome.notes
    assert note.path == b"cut.mp4" and 5 <= outcome.num_pictures <= 15
    assert note.reason == f"{20 - outcome.num_pictures} of its 20 moments have no frame that can be read"


def test_a_video_that_was_filmed_upright_is_shown_so(tmp_path: Path) -> None:
    upright_HWC = np.zeros((48, 64, 3), np.uint8)
    upright_HWC[:24] = 250  # the sky
    write_video(tmp_path / "held.mp4", [np.ascontiguousarray(np.rot90(upright_HWC))] * 3, turned=-90)
    with (tmp_path / "held.mp4").open("rb") as file:
        (frame,) = read_frames(file, range(1), every_ms=1000)
    assert frame.pixels_HWC.shape == (48, 64, 3) and frame.pixels_HWC[:20].mean() > 200 > 50 > frame.pixels_HWC[28:].mean()


@pytest.mark.xdist_group("people in frames")
def test_the_command_leaves_videos_out_or_takes_them(
    matching_run: Path, people: list[Path], detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, index = tmp_path / "videos", tmp_path / "index"
    folder.mkdir()
    write_video(folder / "a.mp4", [make_frame(people, 101, 2)[0]] * 6, rate=2)
    shutil.copy(people[0], folder / "b.jpg")
    words = ["index", str(folder), str(index), "--workers", "0"]
    assert main([*words, "--run", str(matching_run)]) == 0
    listed = (index / "skipped.tsv").read_text()
    assert listed == "skipped\ta.mp4\ta video, whose frames are indexed with --video-every-s SECONDS\n"
    assert main([*words, "--video-every-s", "2"]) == 2
    assert (
        "was made with --video-every-s 0, and --video-every-s 2 was asked for, expected the same" in capsys.readouterr().err
    )
    assert main([*words, "--video-every-s", "0.01"]) == 2
    assert "--video-every-s is 0.01, expected 0.04 to 3600 seconds, or 0 without videos" in capsys.readouterr().err
    shutil.rmtree(index)
    named = ["--detect", detector.source, "--detector", NAME, "--detect-height-px", "48"]
    assert main([*words, "--run", str(matching_run), "--video-every-s", "1.5", *named]) == 0
    assert main(words) == 0
    capsys.readouterr()
    assert main(["search", str(index), "a man", "--json", "--path", "*.mp4"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert {hit["offset_s"] for hit in hits} == {0.0, 1.5} and {hit["file"] for hit in hits} == {str(folder / "a.mp4")}
    assert all(hit["path"].startswith(f"a.mp4#t={hit['offset_s']:.3f}&xywh=") for hit in hits)

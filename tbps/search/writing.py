"""Who may write an index, and with which weights it is gone on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tbps.data import file_lock
from tbps.runs.atomic_file import remove_asides
from tbps.search.index import MANIFEST, Index, Manifest, read_manifest, write_manifest
from tbps.search.model import SearchModel


def open_or_begin(folder: Path, manifest: Manifest, model: SearchModel, *, camera: str | None = None) -> Manifest:
    """The manifest of the index that is there, or a new one, written. Call it as the only writer.

    camera: replaces the pattern of the index; None = it stays. ValueError: the folder holds something else, or an index of
    other weights or pictures.
    """
    remove_asides(folder, MANIFEST)
    if camera is not None:
        manifest = replace(manifest, camera=_checked_pattern(camera))
    if all(entry.name == "lock" for entry in folder.iterdir()):
        write_manifest(folder, manifest)
        return manifest
    there = read_manifest(folder)
    Index(folder, replace(there, segments=())).check_model(model)
    if (there.root, there.split) != (manifest.root, manifest.split):
        raise ValueError(
            f"{folder} is an index of {there.root}, expected {manifest.root}; one index holds one folder: choose another"
            " folder for this one's, or index a folder that holds both"
        )
    _check_frames(folder, there, manifest)
    if camera is not None and manifest.camera != there.camera:
        there = replace(there, camera=manifest.camera)
        write_manifest(folder, there)
    return there


def _check_frames(folder: Path, there: Manifest, asked: Manifest) -> None:
    """ValueError: people or frames are to be found otherwise than they were."""
    if there.detector != asked.detector:
        raise ValueError(
            f"{folder} was made with {_detector_in_words(there)}, and {_detector_in_words(asked)} was asked for, expected"
            " the same; leave --detect and what belongs to it out to go on as it was, or make another index"
        )
    if there.video_every_s != asked.video_every_s:
        found, wanted = (f"--video-every-s {each.video_every_s:g}" for each in (there, asked))
        raise ValueError(
            f"{folder} was made with {found}, and {wanted} was asked for, expected the same (0 is without videos); leave it"
            " out to go on as it was, or make another index"
        )


def _detector_in_words(manifest: Manifest) -> str:
    if not manifest.detector:
        return "no detector"
    said = {**manifest.detector, "sha256": manifest.detector["sha256"][:12]}
    return "a detector of " + ", ".join(f"{name} {value}" for name, value in said.items())


def _checked_pattern(camera: str) -> str:
    try:
        re.compile(camera)
    except re.error as error:
        raise ValueError(
            f"--camera {camera!r} is no regular expression ({error}), expected one whose first group is the camera in a"
            r" path, such as '^(cam\d+)/'"
        ) from error
    return camera


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of an index folder, which is made. ValueError: another process writes there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        if not file_lock.take(file):
            file.seek(0)
            who = file.read().strip() or "another process"
            raise ValueError(f"{folder} is being written by {who}; wait until it is done, or stop it")
        file.truncate(0)
        file.write(_own_name())
        file.flush()
        yield
        file.truncate(0)


def _own_name() -> str:
    return f"process {os.getpid()} on {platform.node()}"

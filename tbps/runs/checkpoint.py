"""Checkpoints: folders `step-00001234/` that are whole or absent. The newest whose manifest verifies is the latest.

Tensors are safetensors, the rest JSON: reading one runs no code from it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tbps.runs.atomic_file import fsync_path, read_json, words_of, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
"""Weights, momentum encoder and queue, by the names of the method's `state_dict`."""
OPTIMISER_FILE = "optimiser.safetensors"
PROGRESS_FILE = "progress.json"

BASE = "base_sha256"
"""Key of the digest of what adapters sit on, in a checkpoint's progress and in an exported file's metadata."""
ALPHA = "lora_alpha"
"""Key of the adapters' alpha in an exported file's metadata."""
MANIFEST_FILE = "manifest.json"

_COPY = "copy the checkpoint from a backup, or remove it to go on from the one before"
_FOLDER = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".tmp-"
_BROKEN = "broken-"


def folder_of(parent: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return parent / f"step-{step:08d}"


def steps_in(parent: Path) -> list[int]:
    """Steps of all checkpoint folders, broken ones included, oldest first."""
    if not parent.is_dir():
        return []
    found = (_FOLDER.fullmatch(entry.name) for entry in parent.iterdir())
    return sorted(int(match[1]) for match in found if match)


def save(
    parent: Path, *, step: int, model: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], progress: dict[str, Any]
) -> Path:
    """Write a checkpoint and return its folder. OSError says what could not be written; earlier ones are untouched."""
    target = folder_of(parent, step)
    aside = _free_name(parent / f"{_TEMPORARY}{target.name}")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        _write_files(aside, step, model, optimiser, progress)
        if target.exists():  # a broken one of the same step: `newest` would have resumed from it otherwise
            target.rename(_free_name(parent / f"{_TEMPORARY}replaced-{target.name}"))
        aside.rename(target)
        fsync_path(parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        why = words_of(error) if isinstance(error, OSError) else str(error)
        raise OSError(
            f"checkpoint {target} could not be written: {why}; {_kept(parent)}; make room and run the same command again"
        ) from error
    remove_temporary(parent)
    return target


def why_broken(folder: Path) -> str | None:
    """None if every file of the manifest is there with its size and digest, else the reason in words."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        version, digest, files = manifest["format_version"], manifest.pop("digest"), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({error})"
    if version != FORMAT_VERSION:
        return f"format version {version}, expected {FORMAT_VERSION}"
    if digest != _digest(manifest):
        return f"{MANIFEST_FILE} has another digest than it says"
    if missing := sorted({MODEL_FILE, OPTIMISER_FILE, PROGRESS_FILE} - set(files)):
        return f"{MANIFEST_FILE} does not list {', '.join(missing)}"
    for name, entry in files.items():
        try:
            size = (folder / name).stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size} bytes, expected {entry['bytes']}"
            if _sha256(folder / name) != entry["sha256"]:
                return f"{name} has another sha256 than {MANIFEST_FILE} says"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def newest(parent: Path, *, set_aside: bool = False) -> Path | None:
    """The newest whole checkpoint. Broken newer ones are logged with the reason and, if asked, renamed `broken-...`."""
    for step in reversed(steps_in(parent)):
        folder = folder_of(parent, step)
        reason = why_broken(folder)
        if reason is None:
            return folder
        logger.warning("checkpoint %s is broken and skipped: %s", folder, reason)
        if set_aside:
            shutil.rmtree(parent / f"{_BROKEN}{folder.name}", ignore_errors=True)
            folder.rename(_free_name(parent / f"{_BROKEN}{folder.name}"))
    return None


def prune(parent: Path, *, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and that of step `best`; what cannot be removed is tried again later."""
    for step in steps_in(parent)[:-keep]:
        if step != best:
            folder, aside = folder_of(parent, step), _free_name(parent / f"{_TEMPORARY}old-step-{step:08d}")
            try:
                folder.rename(aside)  # in one move, so that half of it is never taken for a checkpoint
                shutil.rmtree(aside)
            except OSError as error:
                _warn_of_rest(folder, error)


def remove_temporary(parent: Path) -> None:
    """Remove what saves that were killed left behind, and what could not be pruned; a warning where that fails again."""
    for entry in parent.glob(f"{_TEMPORARY}*"):
        try:
            shutil.rmtree(entry)
        except OSError as error:
            _warn_of_rest(entry, error)


def _warn_of_rest(folder: Path, error: OSError) -> None:
    """An old checkpoint that stays costs room, never the run. (NFS keeps the names of files that somebody still reads.)"""
    logger.warning("%s could not be removed (%s): it is tried again at the next save", folder, words_of(error))


def _free_name(path: Path) -> Path:
    """`path`, or with a number behind it where something of that name could not be removed."""
    names = (path if number == 0 else path.with_name(f"{path.name}-{number}") for number in itertools.count())
    return next(name for name in names if not name.exists())


def model_sha256(folder: Path) -> str:
    """Digest of the weights file, as the manifest says."""
    manifest = read_json(folder / MANIFEST_FILE, advice=_COPY)
    return str(manifest["files"][MODEL_FILE]["sha256"])


def read_progress(folder: Path) -> dict[str, Any]:
    """What `save` was given as `progress`."""
    progress: dict[str, Any] = read_json(folder / PROGRESS_FILE, advice=_COPY)
    return progress


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the host: mapped, so that the processes of a node read and hold it once."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)


def load_model(
    method: nn.Module, folder: Path, *, without: Collection[str] = (), copies: Mapping[str, str] | None = None
) -> None:
    """Copy a checkpoint's tensors into `method`. ValueError names the first that differ.

    without: names that no checkpoint of this run holds, since they are frozen. copies: slow copies in the method, and of
    what; what an older checkpoint holds of them beyond what the method has, nothing reads: it is passed over.
    """
    expected = {name: tensor for name, tensor in method.state_dict().items() if name not in without}
    found = read_tensors(folder / MODEL_FILE)
    for name in _unread_copies(found, expected, copies or {}):
        del found[name]
    names = [*expected, *(name for name in found if name not in expected)]
    differing = [
        f"{name}: found {_shape(found, name)}, expected {_shape(expected, name)}"
        for name in names
        if _shape(found, name) != _shape(expected, name)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds another architecture, {len(differing)} of {len(names)} tensors differ:"
            f" {'; '.join(differing[:3])}; use the config it was made with"
        )
    method.load_state_dict(found, strict=False)  # the names were compared above


def _unread_copies(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], copies: Mapping[str, str]) -> list[str]:
    """Tensors of slow copies that the method lacks, shaped as what they are copies of."""
    return [
        name
        for name in found
        for copy, source in copies.items()
        if name.startswith(f"{copy}.")
        and name not in expected
        and _shape(found, name) == _shape(expected, source + name.removeprefix(copy))
    ]


def _write_files(
    folder: Path, step: int, model: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], progress: dict[str, Any]
) -> None:
    from safetensors.torch import save_file  # PyTorch, which those who only look at checkpoints do without

    for name, tensors in ((MODEL_FILE, model), (OPTIMISER_FILE, optimiser)):
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, folder / name)
        fsync_path(folder / name)
    write_json(folder / PROGRESS_FILE, progress)
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in (MODEL_FILE, OPTIMISER_FILE, PROGRESS_FILE)
    }
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    write_json(folder / MANIFEST_FILE, {**manifest, "digest": _digest(manifest)})


def _digest(manifest: Mapping[str, Any]) -> str:
    """Of what a manifest says, however it is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _kept(parent: Path) -> str:
    steps = steps_in(parent)
    return f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no earlier checkpoint"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "none"

"""Vectors of many pictures or sentences as a file that other tools read."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tbps.finished import load_model
from tbps.runs.atomic_file import fsync_path, words_of, write_text
from tbps.search.pictures import FolderPictures, shown_path

KINDS = (".npy", ".parquet")
_NAMED = 3


def check_out(out: Path) -> None:
    """ValueError: not a name of a new .npy or .parquet, or what writes it is not installed."""
    if out.suffix not in KINDS:
        raise ValueError(f"--out is {out}, expected a name that ends in {' or '.join(KINDS)}")
    for file in (out, _names_file(out)):
        if file.exists():
            raise ValueError(f"{file} exists and is left as it is; choose another name, or remove it first")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("pyarrow is not installed, expected it for .parquet; install it: pip install 'tbps[search]'")


def embed_folder(source: str, folder: Path, out: Path) -> str:
    """Write the vectors of all pictures below a folder, by path; returns how many, and which files are none."""
    pictures = FolderPictures(folder)
    listing = pictures.listing()
    model = load_model(source)
    refused = [f"{shown_path(problem.path)} ({problem.reason})" for problem in listing.problems]
    names: list[str] = []
    parts: list[NDArray[np.float32]] = []
    size = model.batch_images
    for start in range(0, len(listing.found), size):
        pixels = []
        for found in listing.found[start : start + size]:
            name = shown_path(found.path)
            try:
                pixels.append(model.resized(Path(os.fsdecode(os.path.join(os.fsencode(pictures.root), found.path)))))
                names.append(name)
            except ValueError as error:
                refused.append(f"{name} ({str(error).partition(': ')[2] or error})")
        if pixels:
            parts.append(model.features_of(torch.stack(pixels)).float().cpu().numpy())
    if not parts:
        raise ValueError(f"{folder} holds no picture that can be read ({len(refused)} files looked at); check the path")
    _write(out, "path", names, np.concatenate(parts))
    said = f"{out}: {len(names)} pictures, {parts[0].shape[1]} numbers each"
    if refused:
        said += (
            f"\n{len(refused)} files cannot be read: {'; '.join(refused[:_NAMED])}{'; ...' if len(refused) > _NAMED else ''}"
        )
    return said


def embed_captions(source: str, file: Path, out: Path) -> str:
    """Write the vectors of the sentences of a text, one a line; returns how many. ValueError names a line without a word."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({words_of(error)}); expected a text with a sentence on each line"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    model = load_model(source)
    for number, line in enumerate(lines, start=1):
        if not model.encoder.clean(line):
            raise ValueError(f"{file}, line {number} is {line[:80]!r}, in which no word is left after cleaning; remove it")
    rows = model.embed_text(lines)
    _write(out, "caption", lines, rows)
    return f"{out}: {len(lines)} captions, {rows.shape[1]} numbers each"


def _names_file(out: Path) -> Path:
    """Where the names of a .npy's rows lie; of a .parquet, in itself."""
    return out.with_suffix(".txt") if out.suffix == ".npy" else out


def _write(out: Path, column: str, names: Sequence[str], rows: NDArray[np.float32]) -> None:
    """Both files whole or not there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        write_text(_names_file(out), "".join(f"{name}\n" for name in names))
        _whole(out, lambda aside: np.save(aside, rows))
    else:
        _whole(out, lambda aside: _write_parquet(aside, column, names, rows))


def _write_parquet(file: Path, column: str, names: Sequence[str], rows: NDArray[np.float32]) -> None:
    import pyarrow
    from pyarrow import parquet

    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), rows.shape[1])
    parquet.write_table(pyarrow.table({column: list(names), "vector": vectors}), file)


def _whole(out: Path, write: Callable[[Path], None]) -> None:
    aside = out.with_name(f".{out.stem}.{os.getpid()}.tmp{out.suffix}")
    try:
        write(aside)
        fsync_path(aside)
        aside.rename(out)
    finally:
        aside.unlink(missing_ok=True)

"""Weights by Hugging Face name or local path: which files they are, and their tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tbps.convert.files import ForeignWeights, read_foreign
from tbps.convert.wrappers import unwrapped

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The first that is there counts; the last two are open_clip's."""
_CONFIGS = ("config.json", "open_clip_config.json")
Find = Callable[[str], Path | None]


@dataclass(kw_only=True)
class Pretrained:
    """Weights and the config beside them."""

    weights: ForeignWeights
    config: dict[str, Any] = field(default_factory=dict)
    """`config.json`, and of open_clip's files theirs, whose sizes lie under `model_cfg`; empty where there is none."""


def read_pretrained(name_or_path: str) -> Pretrained:
    """Read a local file or folder, else a Hugging Face name from its cache, else fetch it.

    Keys are those of the bare model. ValueError if there is none of these, or if no file of weights is inside.
    """
    found = _find(name_or_path)
    found.weights.tensors = unwrapped(found.weights.tensors, found.weights.source)
    return found


def _find(name_or_path: str) -> Pretrained:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return Pretrained(weights=read_foreign(path))
    if path.is_dir():
        return _read(name_or_path, _in_folder(path))
    if not _HUB_NAME.fullmatch(name_or_path):
        raise ValueError(
            f"{name_or_path}: found no such file or folder, expected weights on this disk or a Hugging Face name such as"
            " bert-base-uncased; check the path"
        )
    cached = _cached_folder(name_or_path)
    return _read(name_or_path, _in_folder(cached) if cached else lambda file: _fetch(name_or_path, file))


def _in_folder(folder: Path) -> Find:
    return lambda file: folder / file if (folder / file).is_file() else None


def _cached_folder(name: str) -> Path | None:
    """The cached copy of a Hugging Face name, if weights are in it: compute nodes often have no network to ask."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    held = (folder / f"{file}{ending}" for file in _WEIGHT_FILES for ending in ("", ".index.json"))
    return folder if any(file.is_file() for file in held) else None


def _read(name: str, find: Find) -> Pretrained:
    configs = {file: _read_json(path) if (path := find(file)) else {} for file in _CONFIGS}
    for file in _WEIGHT_FILES:
        whole = find(file)
        index = None if whole else find(f"{file}.index.json")
        if whole is None and index is None:
            continue
        config = configs[_CONFIGS[file.startswith("open_clip")]]
        if index is not None:
            return Pretrained(weights=_read_parts(name, index, find), config=config)
        assert whole is not None
        weights = read_foreign(whole)
        weights.source = name
        return Pretrained(weights=weights, config=config)
    raise ValueError(f"{name}: found no weights there, expected {' or '.join(_WEIGHT_FILES)}; choose another name or path")


def _read_parts(name: str, index: Path, find: Find) -> ForeignWeights:
    """Weights split over several files, which an index lists."""
    parts = []
    for file in sorted(set(_read_json(index).get("weight_map", {}).values())):
        part = find(file)
        if part is None:
            raise ValueError(f"{name}: {file} is missing, expected it as {index.name} lists it; get the folder again")
        parts.append(read_foreign(part))
    return ForeignWeights(
        tensors={key: tensor for part in parts for key, tensor in part.tensors.items()},
        others=[key for part in parts for key in part.others],
        sha256=",".join(part.sha256 for part in parts),
        source=name,
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file}: not a JSON file ({error}), expected it beside the weights; get the folder again"
        ) from error
    return content


def _fetch(name: str, file: str) -> Path | None:
    """A file of a Hugging Face repository; None if the repository lacks it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(name, file))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise ValueError(
            f"{name}: found no such file or folder, not in the Hugging Face cache, and huggingface.co cannot be reached;"
            " fetch it where there is a network, and name the folder"
        ) from error
    except EntryNotFoundError:
        return None
    except (RepositoryNotFoundError, HfHubHTTPError) as error:
        raise ValueError(
            f"{name}: found no such file or folder, and huggingface.co does not give it ({type(error).__name__}); check the"
            " name, or log in where it is not public"
        ) from error

"""The folder that `tbps export` writes: weights, config, preprocessing and tokeniser of one finished model.

Its `config.json` has the form of a run's, without places of the machine it was trained on, and with `export` beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from tbps.config.run import Run
from tbps.config.serialise import to_json
from tbps.runs.config_hash import config_hash
from tbps.runs.run_folder import RunFolder

FORMAT = 1
MODEL_FILE = "model.safetensors"
PREPROCESSING_FILE = "preprocessing.json"
CARD_FILE = "README.md"
_KEY = "export"
_ELSEWHERE = "elsewhere"
_AGAIN = "get the folder again, or export the run again"
Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported folder that was opened."""

    path: Path
    run: Run
    """What was trained, and how; its vocabulary is the folder's."""
    config_hash: str
    """Of the run's settings, on the machine that trained it too."""
    weights_sha256: str
    """Of what features depend on, as the run named it: an index made with the run is searched with its export."""
    checkpoint: str
    step: int
    """Optimiser steps behind the weights."""
    file_sha256: Mapping[str, str]
    """Of every file but the config itself and the model card, which people correct."""

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.path / MODEL_FILE

    def check(self) -> None:
        """ValueError: a file is missing or is not what was exported."""
        for name, expected in self.file_sha256.items():
            file = self.path / name
            if not file.is_file():
                raise ValueError(f"{self.path} has no {name}, expected it in an exported model; {_AGAIN}")
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != expected:
                raise ValueError(f"{file} has sha256 {found}, expected {expected}: it is damaged or was changed; {_AGAIN}")


def exported_config(
    run: Run,
    *,
    vocabulary: str,
    weights_sha256: str,
    checkpoint: str,
    step: int,
    file_sha256: Mapping[str, str],
    beside: Mapping[str, Any],
) -> dict[str, Any]:
    """The values of `config.json`. vocabulary: the file of the tokeniser, empty where the run's own name stays; beside:
    what else a run's config tells, such as versions."""
    told = {
        "format": FORMAT,
        "vocabulary": vocabulary,
        "weights_sha256": weights_sha256,
        "checkpoint": checkpoint,
        "step": step,
        "file_sha256": dict(file_sha256),
    }
    plain = without_places(run)
    return {**beside, "hash": config_hash(run), "run": to_json(plain), _KEY: told}


def read_exported(path: Path) -> Exported | None:
    """The exported model in a folder; None where there is none. ValueError: it is not whole, or of another format."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        return None
    config = folder.read_config()
    told = config.get(_KEY)
    if told is None:
        return None
    found = told.get("format") if isinstance(told, Mapping) else told
    if found != FORMAT:
        raise ValueError(f"{folder.config} has export format {found!r}, expected {FORMAT}; {_AGAIN}")
    run = folder.read_run()
    try:
        vocabulary = str(told["vocabulary"])
        if vocabulary:
            vocabulary = str(path / vocabulary)
        captioning = replace(run.data.captioning, vocabulary=vocabulary or run.data.captioning.vocabulary)
        return Exported(
            path=path,
            run=replace(run, data=replace(run.data, captioning=captioning)),
            config_hash=str(config["hash"]),
            weights_sha256=str(told["weights_sha256"]),
            checkpoint=str(told["checkpoint"]),
            step=int(told["step"]),
            file_sha256={str(name): str(digest) for name, digest in told["file_sha256"].items()},
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder.config} is not whole: export has no proper {error}; {_AGAIN}") from error


def without_places(run: Run) -> Run:
    """The run without folders of the machine it was trained on: settings of place as by default, bare names of files."""
    plain = _as_by_default(run)
    main = next((source.name for source in run.data.mixture if source.benchmark == run.data.benchmark), "")
    others = [source.name for source in run.data.mixture if source.name != main]
    captioning = replace(plain.data.captioning, vocabulary=_bare(plain.data.captioning.vocabulary))
    roots = tuple(f"{name}={_ELSEWHERE}" for name in others)
    plain = replace(plain, data=replace(plain.data, captioning=captioning, roots=roots))
    start = replace(plain.start, **{name: _bare(getattr(plain.start, name)) for name in ("weights", "vit", "bert", "clip")})
    return replace(plain, start=start, lora=replace(plain.lora, adapters=_bare(plain.lora.adapters)))


def _as_by_default(config: Config) -> Config:
    """Fields marked `place` at their defaults, in parts of a config too."""
    assert is_dataclass(config) and not isinstance(config, type)
    changes: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("place") and field.name != "roots":  # of several data sets each must have a root
            changes[field.name] = field.default
        elif is_dataclass(value):
            changes[field.name] = _as_by_default(value)
    return replace(config, **changes)  # type: ignore[return-value]


def _bare(name: str) -> str:
    """The last part of a path that tells where somebody's home is; other names as they are."""
    absolute = name.startswith(("/", "~")) or PureWindowsPath(name).is_absolute()
    return PureWindowsPath(name).name if absolute else name

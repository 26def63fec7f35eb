"""A finished run as a folder that others can use: what `tbps export` writes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tbps.config.run import Run
from tbps.convert import onnx_encoders, search_script
from tbps.convert.completeness import check_finite
from tbps.convert.export import facts_of, read_by_training_alone
from tbps.convert.files import sha256_of
from tbps.convert.writing import write_safetensors
from tbps.finished import Finished, open_finished
from tbps.methods.method import Method
from tbps.reporting.model_card import model_card
from tbps.reporting.results import read_results
from tbps.runs.atomic_file import fsync_path, write_json, write_text
from tbps.runs.exported import CARD_FILE, MODEL_FILE, PREPROCESSING_FILE, exported_config
from tbps.runs.run_folder import RunFolder
from tbps.text.tokeniser import Tokeniser
from tbps.text.tokeniser_files import tokeniser_files

SEARCH_FILE = "search.py"
RESULTS_FILE = "results.json"


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A run's best checkpoint, and that in its method, adapters merged."""

    finished: Finished
    method: Method
    tokeniser: Tokeniser

    @property
    def run(self) -> Run:
        """What was trained."""
        return self.finished.run


def export_run(path: Path, out: Path, *, onnx: bool = False, licence: str = "") -> str:
    """Write a run's best checkpoint with all that it takes to use it as the new folder `out`; returns what was written.

    onnx: both encoders as ONNX too, and `search.py`, which needs neither torch nor this package. licence: of the weights, a
    name or a sentence. ValueError: no such run, `out` exists, a number is not finite, or there can be no ONNX of it.
    """
    if out.exists():
        raise ValueError(f"{out} exists and is left as it is; choose another name, or remove it first")
    if onnx:
        onnx_encoders.check_packages()
    opened = _open(path)
    files, told = tokeniser_files(opened.tokeniser)
    if onnx and told["kind"] == "own":
        raise ValueError(
            f"{path}: captions are cut by {opened.tokeniser.name}, which {SEARCH_FILE} cannot do without its library;"
            " leave out --onnx"
        )
    with _new_folder(out) as folder:
        for name, text in files.items():
            write_text(folder / name, text)
        kept = _write_weights(opened, folder)
        write_json(folder / PREPROCESSING_FILE, _preprocessing(opened.run, told))
        write_json(folder / RESULTS_FILE, read_results(path))
        said = _write_onnx(opened, folder) if onnx else []
        _write_card(opened, folder, kept, licence)
        _write_config(opened, folder, str(told.get("file", "")))
        size = sum(file.stat().st_size for file in folder.iterdir())
    lines = [f"{out}: {opened.run.recipe}/{opened.run.name}, {opened.finished.checkpoint}, {size / 1e6:.1f} MB"]
    lines += ["adapters are merged into the weights"] * opened.run.lora.on
    lines.append(f"beside the encoders: {'; '.join(_heads(opened, kept)) or 'nothing'}")
    lines.append(f"left out, as only training reads it: {'; '.join(_left_out(opened, kept)) or 'nothing'}")
    return "\n".join([*lines, *said])


def _open(path: Path) -> _Opened:
    finished = open_finished(path)
    if finished.exported is not None:
        raise ValueError(f"{path} is an exported model already, expected a run folder; copy it, or name the run")
    return _Opened(finished=finished, method=finished.method(merged=True), tokeniser=finished.tokeniser())


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder aside that becomes `out` when it is whole; nothing is left of it where that fails."""
    aside = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.iterdir():
            file.chmod(0o644)  # safetensors lets nobody else read its files
            fsync_path(file)
        fsync_path(aside)
        aside.rename(out)
        fsync_path(out.absolute().parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_weights(opened: _Opened, folder: Path) -> dict[str, Tensor]:
    """The tensors that retrieval reads; returns them."""
    tensors = opened.method.state_dict()
    check_finite(tensors, str(opened.finished.weights))
    left_out = read_by_training_alone(opened.run)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    write_safetensors(kept, folder / MODEL_FILE, facts_of(opened.run, opened.finished.weights))
    return kept


def _heads(opened: _Opened, kept: Mapping[str, Tensor]) -> list[str]:
    """What the weights hold beside the encoders."""
    encoders = tuple(f"{name}." for name in opened.method.encoders)
    return _counted(name for name in kept if not name.startswith(encoders))


def _left_out(opened: _Opened, kept: Mapping[str, Tensor]) -> list[str]:
    """What the run has and the weights do not hold."""
    return _counted(name for name in opened.method.state_dict() if name not in kept)


def _counted(names: Iterable[str]) -> list[str]:
    """By the method's own names of its parts, with the numbers of tensors."""
    counted = Counter(".".join(name.split(".")[: 2 if name.startswith("online.") else 1]) for name in names)
    return [f"{name} ({number} {'tensor' if number == 1 else 'tensors'})" for name, number in counted.items()]


def _preprocessing(run: Run, tokeniser: Mapping[str, Any]) -> dict[str, Any]:
    pixels, captioning = run.data.evaluation_pixels, run.data.captioning
    return {
        "image": {
            "height": run.data.image_px[0],
            "width": run.data.image_px[1],
            "channels": "RGB",
            "interpolation": pixels.interpolation,
            "antialias": True,
            "scale": 1 / 255,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
        },
        "caption": {
            "cleaning": captioning.cleaning,
            "max_words": captioning.max_words,
            "max_tokens": captioning.max_tokens,
            "tokeniser": dict(tokeniser),
        },
        "similarity": "dot product of unit rows",
    }


def _write_onnx(opened: _Opened, folder: Path) -> list[str]:
    shutil.copyfile(search_script.__file__, folder / SEARCH_FILE)
    data = opened.run.data
    return onnx_encoders.write_onnx(
        opened.method,
        folder,
        image_px=data.image_px,
        pixels=data.evaluation_pixels,
        max_tokens=data.captioning.max_tokens,
        vocabulary=opened.tokeniser.size,
    )


def _write_card(opened: _Opened, folder: Path, kept: Mapping[str, Tensor], licence: str) -> None:
    phrases = {
        MODEL_FILE: "the weights",
        "config.json": "every setting of the training, and the sha256 of each file",
        PREPROCESSING_FILE: "how pictures become pixels and captions tokens",
        RESULTS_FILE: "all scores with their rules",
        "vocab.txt": "word pieces, one a line",
        "tokenizer.json": "the tokeniser, as the tokenizers library writes it",
        "merges.txt": "CLIP's byte pairs",
        onnx_encoders.IMAGE_FILE: f"ONNX, opset {onnx_encoders.OPSET}: uint8 pixels (images, 3, height, width) to unit rows",
        onnx_encoders.CAPTION_FILE: f"ONNX, opset {onnx_encoders.OPSET}: int64 token_ids (captions, tokens) and lengths to"
        " unit rows",
        SEARCH_FILE: "finds pictures by a sentence with numpy, onnxruntime and pillow",
    }
    written = {file.name for file in folder.iterdir()} | {"config.json"}
    card = model_card(
        opened.run,
        step=opened.finished.step,
        num_parameters=sum(tensor.numel() for tensor in kept.values()),
        heads=_heads(opened, kept),
        left_out=_left_out(opened, kept),
        results=read_results(opened.finished.folder),
        files={name: phrase for name, phrase in phrases.items() if name in written},
        licence=licence,
        git=RunFolder(opened.finished.folder).read_config().get("git"),
    )
    write_text(folder / CARD_FILE, card)


def _write_config(opened: _Opened, folder: Path, vocabulary: str) -> None:
    config = RunFolder(opened.finished.folder).read_config()
    values = exported_config(
        opened.run,
        vocabulary=vocabulary if opened.run.needs.text.tokeniser == "bert" else "",
        weights_sha256=opened.finished.weights_sha256,
        checkpoint=opened.finished.checkpoint,
        step=opened.finished.step,
        file_sha256={file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != CARD_FILE},
        beside={name: config[name] for name in ("git", "versions") if name in config},
    )
    write_json(folder / "config.json", json.loads(json.dumps(values)))

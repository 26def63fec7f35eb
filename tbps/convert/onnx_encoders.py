"""Both encoders of a method as ONNX: pixels to unit features, token ids to unit features; compared with torch at once.

Shapes: B images or captions, L tokens of the longest caption, E features.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from tbps.config.data import Pixels
from tbps.methods.method import Method

OPSET = 20
"""Version of ONNX's operators that the graphs are written in."""
IMAGE_FILE = "image_encoder.onnx"
CAPTION_FILE = "caption_encoder.onnx"
LEAST_COSINE = 0.9999
"""Between a feature by onnxruntime and the same by torch: below it nothing is handed on."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ImageGraph(nn.Module):
    """(B, 3, H, W) uint8 pixels, resized as the model reads them, to (B, E) float32 unit rows."""

    def __init__(self, method: Method, pixels: Pixels) -> None:
        super().__init__()
        self.method = method
        self.mean, self.std = (nn.Buffer(torch.tensor(values).view(3, 1, 1)) for values in (pixels.mean, pixels.std))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised, then as `Method.embed_images`."""
        return self.method.embed_images((pixels.float() / 255 - self.mean) / self.std).feature_IE.float()


class CaptionGraph(nn.Module):
    """(B, L) int64 token ids and (B,) int64 lengths, start and end tokens included, to (B, E) float32 unit rows."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """`Method.embed_padded`."""
        return self.method.embed_padded(token_ids, lengths)


def check_packages() -> None:
    """ValueError names what must be installed to write ONNX."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{missing[0]} is not installed, expected it for --onnx; install it: pip install 'tbps[onnx]'")


def write_onnx(
    method: Method, folder: Path, *, image_px: tuple[int, int], pixels: Pixels, max_tokens: int, vocabulary: int
) -> list[str]:
    """Write IMAGE_FILE and CAPTION_FILE of a method on the host in evaluation mode; returns what to say of each.

    vocabulary: token ids are below it. ValueError: the method cannot be traced, or onnxruntime's features are not torch's.
    """
    images = torch.randint(0, 256, (3, 3, *image_px), dtype=torch.uint8, generator=_seeded())
    graph = ImageGraph(method, pixels).eval()
    _export(graph, {"pixels": images}, folder / IMAGE_FILE, {"pixels": {0: Dim("images", min=1)}})
    worst = _compare(graph, folder / IMAGE_FILE, [{"pixels": images[:number]} for number in (1, 3)])
    size = f"{image_px[0]}, {image_px[1]}"
    said = [f"{IMAGE_FILE}: opset {OPSET}, pixels uint8 (images, 3, {size}); cosine {worst:.7f} or more"]

    captions = CaptionGraph(method).eval()
    rows, tokens = Dim("captions", min=1), Dim("tokens", min=2, max=max_tokens)
    traced = _captions(3, min(9, max_tokens), vocabulary)
    _export(captions, traced, folder / CAPTION_FILE, {"token_ids": {0: rows, 1: tokens}, "lengths": {0: rows}})
    tried = [_captions(number, length, vocabulary) for number in (1, 5) for length in (2, max_tokens)]
    worst = _compare(captions, folder / CAPTION_FILE, tried)
    said.append(
        f"{CAPTION_FILE}: opset {OPSET}, token_ids int64 (captions, 2 to {max_tokens} tokens), lengths int64 (captions);"
        f" cosine {worst:.7f} or more"
    )
    return said


def _captions(number: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    """Random ids, of captions of all lengths up to `length`."""
    lengths = torch.linspace(2, length, number).round().long().flip(0)
    return {"token_ids": torch.randint(0, vocabulary, (number, length), generator=_seeded()), "lengths": lengths}


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _export(graph: nn.Module, inputs: Mapping[str, Tensor], file: Path, dynamic: dict[str, dict[int, Dim]]) -> None:
    import onnx

    with _quietly(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=["features"],
                dynamic_shapes=dynamic,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{file.name} cannot be traced ({cause}); leave out --onnx, or mend what torch.export does not know in"
                f" {_name(graph)}"
            ) from error
        assert program is not None, "torch.onnx.export with dynamo gives a program"
        program.save(str(file))
    onnx.checker.check_model(str(file))
    _check_free(graph, file, dynamic)


def _check_free(graph: nn.Module, file: Path, dynamic: Mapping[str, Mapping[int, Dim]]) -> None:
    """ValueError: a number that was to be free was fixed while the graph was traced."""
    import onnx

    for given in onnx.load(str(file), load_external_data=False).graph.input:
        for place, free in dynamic[given.name].items():
            size = given.type.tensor_type.shape.dim[place]
            if not size.dim_param:
                raise ValueError(
                    f"{file.name} would take {size.dim_value} {free.__name__} and no other number: len() of a tensor fixes"
                    f" it while {_name(graph)} is traced; leave out --onnx, or take the number from .shape there"
                )


def _name(graph: nn.Module) -> str:
    return type(getattr(graph, "method", graph)).__name__


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter logs and warns of its own inner life."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compare(graph: nn.Module, file: Path, tried: list[dict[str, Tensor]]) -> float:
    """The least cosine of a feature by onnxruntime and by torch. ValueError: below LEAST_COSINE."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    least = 1.0
    for inputs in tried:
        found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        with torch.no_grad():
            expected = graph(**inputs).numpy()
        least = min(least, float(np.nan_to_num((found * expected).sum(1), nan=-1.0).min()))
    if least < LEAST_COSINE:
        raise ValueError(
            f"{file.name}: onnxruntime's features have a cosine of {least:.6f} with torch's, expected {LEAST_COSINE} or"
            " more; install another version of onnxruntime, or leave out --onnx"
        )
    return least

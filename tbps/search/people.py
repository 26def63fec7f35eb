"""People in whole frames, found by a detector of torchvision whose weights the user has.

Frames are looked at one by one, so that what is found does not depend on what else is indexed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps.convert.files import read_foreign
from tbps.search.preparing import MIN_SIDE_PX, Look, Prepared, view_of
from tbps.search.segment import Box

_PERSON = 1
"""The label of people in COCO, with which torchvision's detectors are trained."""
_NUM_CLASSES_BY = "roi_heads.box_predictor.cls_score.bias"
"""Faster R-CNN's and its descendants' parameter of one number a class, the background among them."""

_WITHOUT_EPSILON = tuple(f"{kind}_resnet50_fpn" for kind in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet"))
"""Detectors of which torchvision's first weights want none in their batch norms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A network with the thresholds that it is used with. `load_detector` makes one."""

    network: nn.Module
    """In evaluation mode: takes a list of (3, H, W) float frames, gives `boxes`, `labels` and `scores` of each."""
    device: torch.device
    name: str
    source: str
    """Its file."""
    sha256: str
    score: float
    """Of people that are kept: at least this, 0 to 1."""
    height_px: int
    """Their boxes' height: at least this."""

    def said(self) -> dict[str, Any]:
        """All that boxes depend on, as a manifest holds it."""
        return {"name": self.name, "sha256": self.sha256, "score": self.score, "height_px": self.height_px}

    @property
    def wanted(self) -> str:
        """Whom it finds, in words."""
        return f"score at least {self.score:g}, height at least {self.height_px} pixels"

    def boxes(self, pixels_HWC: NDArray[np.uint8]) -> list[Box]:
        """Of the people in a frame, the most certain first. They reach to the frame's edge at most."""
        frame_CHW = torch.from_numpy(np.array(pixels_HWC)).permute(2, 0, 1).to(self.device).float() / 255
        with torch.inference_mode():
            found: dict[str, Tensor] = self.network([frame_CHW])[0]
        kept = (found["labels"] == _PERSON) & (found["scores"] >= self.score)
        height, width = pixels_HWC.shape[:2]
        people = []
        for score, edges in zip(found["scores"][kept].tolist(), found["boxes"][kept].tolist(), strict=True):
            left, top = (max(0, int(edge)) for edge in edges[:2])
            right, bottom = (min(most, int(-(-edge // 1))) for edge, most in zip(edges[2:], (width, height), strict=True))
            if bottom - top >= max(self.height_px, MIN_SIDE_PX) and right - left >= MIN_SIDE_PX:
                people.append((-score, (left, top, right, bottom)))
        return [box for _, box in sorted(people)]


def with_people(prepared: Prepared, detector: Detector, look: Look) -> Prepared:
    """With a view of each person in its frames in place of the frames."""
    views, empty = [], 0
    for frame in prepared.frames:
        boxes = detector.boxes(frame.pixels_HWC)
        views += [view_of(frame, look, box=box) for box in boxes]
        empty += not boxes
    return replace(prepared, views=tuple(views), frames=(), num_empty=empty)


def load_detector(path: Path, *, name: str, score: float, height_px: int, device: torch.device) -> Detector:
    """The detector of torchvision of that name with the weights of a file, under torchvision's own keys.

    ValueError: the name is unknown, a threshold is out of its range, or the weights are those of another network.
    """
    from torchvision.models import detection, get_model, list_models

    if name not in (known := list_models(module=detection)):
        raise ValueError(f"--detector is {name!r}, expected one of torchvision's: {', '.join(known)}")
    if not 0 < score < 1:
        raise ValueError(f"--detect-score is {score:g}, expected a number between 0 and 1")
    if height_px < MIN_SIDE_PX:
        raise ValueError(f"--detect-height-px is {height_px}, expected at least {MIN_SIDE_PX}")
    weights = read_foreign(path)
    classes = weights.tensors.get(_NUM_CLASSES_BY)
    given = {} if classes is None else {"num_classes": len(classes)}
    network = get_model(name, weights=None, weights_backbone=None, **given)
    _check_fit(path, name, weights.tensors, network.state_dict())
    network.load_state_dict(weights.tensors, strict=False)  # but for what `_check_fit` lets pass
    if (digits := _first_weights(name)) and weights.sha256.startswith(digits):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return Detector(
        network=network.eval().to(device),
        device=device,
        name=name,
        source=str(path.absolute()),
        sha256=weights.sha256,
        score=score,
        height_px=height_px,
    )


def _first_weights(name: str) -> str:
    """How the sha256 of torchvision's first weights of a detector begins, if it runs them with an epsilon of 0: they were
    trained with batch norms that had none. Empty for any other detector."""
    from torchvision.models import get_model_weights

    if name not in _WITHOUT_EPSILON:
        return ""
    file = str(get_model_weights(name)["COCO_V1"].url)  # its name ends in these digits
    return file.rpartition("-")[2].removesuffix(".pth")


def _check_fit(path: Path, name: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """ValueError says in one sentence which keys differ."""
    counters = "num_batches_tracked"  # left out by some who saved them; of no use here
    missing = sorted(key for key in expected.keys() - found.keys() if not key.endswith(counters))
    unknown = sorted(found.keys() - expected.keys())
    other = sorted(key for key in expected.keys() & found.keys() if expected[key].shape != found[key].shape)
    differences = [
        f"{len(keys):,} {what} (first: {keys[0]})"
        for keys, what in ((missing, "missing"), (unknown, "unknown"), (other, "of another shape"))
        if keys
    ]
    if differences:
        raise ValueError(
            f"{path} does not fit {name}: of {len(expected):,} tensors, {', '.join(differences)}; expected a state dict of"
            f" torchvision's {name}: name the network that it is of by --detector, or give another file"
        )

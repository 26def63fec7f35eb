"""A detector of torchvision that finds synthetic people in frames: random layers, of which the last is solved for.

Boxes of a person's shape are proposed everywhere, and ridge regression on what the random layers say of them tells people
from a wall: seconds of work, in place of training. Its boxes are about where people stand, and none is where nobody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import box_iou

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
FRAME_PX = (320, 320)
"""Height and width: what the network sees, so that nothing is resized."""
PERSON_PX = (90, 44)
"""As the anchors are."""
_STRIDE_PX = 32
"""Between anchors; people stand about there."""
Boxes = list[tuple[int, int, int, int]]


def make_frame(people: Sequence[Path], seed: int, number: int) -> tuple[NDArray[np.uint8], Boxes]:
    """(H, W, 3) of so many of the pictured people side by side before a wall, and where they stand."""
    random = np.random.default_rng(seed)
    frame_HWC = np.full((*FRAME_PX, 3), random.integers(90, 160, 3), np.uint8)
    frame_HWC[::16] //= 2
    boxes: Boxes = []
    for place in sorted(random.permutation(4)[:number].tolist()):
        middle = _STRIDE_PX * np.array([1 + 2 * place, random.integers(3, 8)]) + random.integers(-3, 4, 2)
        (left, top), (tall, wide) = (middle - np.array(PERSON_PX[::-1]) // 2).tolist(), PERSON_PX
        with Image.open(people[int(random.integers(len(people)))]) as person:
            resized = person.convert("RGB").resize((wide, tall), Image.Resampling.BICUBIC)
        frame_HWC[top : top + tall, left : left + wide] = np.asarray(resized)
        boxes.append((left, top, left + wide, top + tall))
    return frame_HWC, boxes


def write_detector(path: Path, people: Sequence[Path]) -> None:
    """Its state dict, which knows two classes: background and person."""
    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=2)
    examples = [make_frame(people, seed, (3, 4, 2, 0)[seed % 4]) for seed in range(20)]
    frames = [torch.from_numpy(frame_HWC).permute(2, 0, 1).float() / 255 for frame_HWC, _ in examples]
    _settle_norms(network, frames)
    _propose_people(network)
    _solve(network, frames, [boxes for _, boxes in examples])
    torch.save(network.state_dict(), path)


def _settle_norms(network: nn.Module, frames: list[Tensor]) -> None:
    """Means and deviations of the batch norms are those of the frames."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    network.train()
    with torch.no_grad():
        network.backbone(network.transform(frames[:8])[0].tensors)
    network.eval()


def _propose_people(network: nn.Module) -> None:
    """Anchors of about a person's size and shape everywhere, whatever the frame shows."""
    head = network.rpn.head
    for layer in (head.cls_logits, head.bbox_pred):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        head.cls_logits.bias.fill_(-9.0)
        head.cls_logits.bias[11] = 9.0  # of the sizes 32 to 512 by the shapes 0.5, 1 and 2: 64 pixels, twice as tall as wide


@torch.no_grad()
def _solve(network: nn.Module, frames: list[Tensor], boxes: list[Boxes]) -> None:
    heads = network.roi_heads
    images, _ = network.transform(frames)
    seen = network.backbone(images.tensors)
    proposals, _ = network.rpn(images, seen)
    feature_PE = heads.box_head(heads.box_roi_pool(seen, proposals, images.image_sizes))
    truth = [torch.tensor(each or [(-2, -2, -1, -1)]).float() for each in boxes]
    overlaps = [box_iou(found, expected) for found, expected in zip(proposals, truth, strict=True)]
    overlap_P = torch.cat([each.max(1).values for each in overlaps])
    person_P, clear_P = overlap_P > 0.6, (overlap_P > 0.6) | (overlap_P < 0.3)
    weight_P = torch.where(person_P, (~person_P).sum() / person_P.sum(), torch.tensor(1.0))
    logit_P = torch.where(person_P, 5.0, -5.0)
    score, shift = heads.box_predictor.cls_score, heads.box_predictor.bbox_pred
    for layer in (score, shift):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    _ridge(score, 1, feature_PE[clear_P], logit_P[clear_P, None], weight_P[clear_P])


def _ridge(layer: nn.Linear, row: int, feature_PE: Tensor, target_P1: Tensor, weight_P: Tensor) -> None:
    """A row of the layer by weighted least squares, with a little ridge."""
    feature_PE = torch.cat([feature_PE, torch.ones(len(feature_PE), 1)], 1).double()
    weighted_EP = feature_PE.T * weight_P.double()
    gram_EE = weighted_EP @ feature_PE
    gram_EE += 1e-3 * gram_EE.diagonal().mean() * torch.eye(len(gram_EE))
    solved_E1 = torch.linalg.solve(gram_EE, weighted_EP @ target_P1.double()).float()
    layer.weight[row], layer.bias[row] = solved_E1[:-1, 0], solved_E1[-1, 0]

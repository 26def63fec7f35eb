"""The masked patches of a batch: which they are, what is to be predicted of them ("told"), and how well that was done.

Shapes: B pairs, P = 1 + N image tokens, K masked patches of each image, M = B K, C labels, E features, X numbers that are
told of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tbps.config.methods.bilma import PatchTarget
from tbps.methods.method import LossesAndNumbers
from tbps.nn.cross_modal_encoder import Joint
from tbps.nn.packing import upload
from tbps.objectives.masked_patches import choose_patches, count_right, regression_loss, semantic_loss
from tbps.objectives.patch_labels import NOT_COUNTED, UNLABELLED, label_counts, majority_label, patches_of


@dataclass(kw_only=True)
class PatchTask:
    """The masked patches of a batch, image after image; all tensors lie on the device."""

    masked_BP: Tensor
    """Which image tokens are masked."""
    row_M: Tensor
    """Row of each masked patch among the tokens of all [image || caption] sequences (`Joint`)."""
    patch_M: Tensor
    """Its number among the patches of all images, B N."""
    target_MX: Tensor | None
    """Numbers to be predicted of each patch; None where a label is, or where they are the image encoder's own output."""
    label_M: Tensor | None
    """Label to be predicted of each patch, or `UNLABELLED`; None where numbers are predicted."""
    count_BC: Tensor
    """How many masked patches of each image have each label, as floats; (B, 1), all of them, where there are no labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTelling:
    """How patches are masked, and what is predicted of them: settings, without weights."""

    target: PatchTarget
    ratio: float
    """Share of an image's patches that are masked."""
    labels: tuple[str, ...]
    """Names of the labels of the parsing maps."""
    patch_px: int
    stride_px: int
    """Of the image encoder."""
    features: int
    """Width of the image encoder's output, E."""
    ignore_background: bool = False
    ignore_erased: bool = False

    @property
    def outputs(self) -> int:
        """X: how many numbers are predicted of a patch; for labels, a logit of each."""
        pixels = 3 * self.patch_px**2
        return {"semantic": len(self.labels), "pixel": pixels, "mean-colour": 3, "feature": self.features}[self.target]

    def choose(
        self,
        number_BN: NDArray[np.float64],
        joint: Joint,
        *,
        image_BCHW: Tensor,
        map_BHW: Tensor | None,
        erased_BHW: Tensor | None,
    ) -> PatchTask:
        """Mask patches by uniform numbers, and read off what is to be predicted. map_BHW: parsing maps, where labels are."""
        device = image_BCHW.device
        patch_BK = choose_patches(number_BN, ratio=self.ratio)
        num_images, patches = number_BN.shape
        image_M, place_M = np.repeat(np.arange(num_images), patch_BK.shape[1]), patch_BK.ravel()
        row_M, patch_M, token_M = upload(
            [
                joint.rows_of_patches(image_M, place_M),
                image_M * patches + place_M,
                image_M * joint.image_tokens + 1 + place_M,
            ],
            device,
        )
        masked_BP = torch.zeros(num_images, joint.image_tokens, dtype=torch.bool, device=device)
        masked_BP.view(-1).index_fill_(0, token_M, True)
        label_M, target_MX = None, None
        count_BC = torch.full((num_images, 1), float(patch_BK.shape[1]), device=device)
        if self.target == "semantic":
            assert map_BHW is not None
            label_M = self.labels_of(map_BHW, erased_BHW).flatten().index_select(0, patch_M)
            count_BC = (label_M.view(num_images, -1, 1) == torch.arange(len(self.labels), device=device)).sum(1).float()
        elif self.target != "feature":
            pixels_MCX = self._patches(image_BCHW).flatten(0, 1).index_select(0, patch_M)
            target_MX = pixels_MCX.mean(2) if self.target == "mean-colour" else pixels_MCX.flatten(1)
        return PatchTask(
            masked_BP=masked_BP, row_M=row_M, patch_M=patch_M, target_MX=target_MX, label_M=label_M, count_BC=count_BC
        )

    def labels_of(self, map_BHW: Tensor, erased_BHW: Tensor | None = None) -> Tensor:
        """(B, N) int64: the label of most of each patch's pixels, `UNLABELLED` where it has none that counts."""
        if self.ignore_erased and erased_BHW is not None:
            map_BHW = map_BHW.masked_fill(erased_BHW, NOT_COUNTED)
        pixels_BNX = self._patches(map_BHW[:, None])[:, :, 0]
        label_BN = majority_label(label_counts(pixels_BNX, num_labels=len(self.labels)))
        return label_BN.masked_fill(label_BN == 0, UNLABELLED) if self.ignore_background else label_BN

    def loss(self, told_MX: Tensor, task: PatchTask, count_C: Tensor, image_BPE: Tensor, *, shares: int) -> LossesAndNumbers:
        """The loss `mim`, and numbers for the log.

        count_C: `count_BC` summed over the whole batch; shares: parts of it, over whose losses the loop averages.
        Numbers, in per cent: how many masked patches are told rightly, in all and of each label (0 where the batch has none
        of it), and how many have the batch's commonest label, which is what one would reach who always says that label.
        """
        total = count_C.sum().clamp(min=1)
        mean_over = total / shares
        if task.label_M is None:
            target_MX = task.target_MX
            if target_MX is None:
                token_ME = image_BPE.detach()[:, 1:].flatten(0, 1).index_select(0, task.patch_M)
                target_MX = F.layer_norm(token_ME.float(), token_ME.shape[-1:])
            return {"mim": regression_loss(told_MX, target_MX, mean_over=mean_over)}, {}
        right_C = count_right(told_MX, task.label_M)
        of_label_C = 100 * shares * right_C / count_C.clamp(min=1)
        numbers = {
            "patches_told": 100 * right_C.sum() / mean_over,
            "patches_of_commonest_label": 100 * count_C.max() / total,
            **{f"patches_told/{name}": value for name, value in zip(self.labels, of_label_C.unbind(), strict=True)},
        }
        return {"mim": semantic_loss(told_MX, task.label_M, mean_over=mean_over)}, numbers

    def _patches(self, layer_BCHW: Tensor) -> Tensor:
        return patches_of(layer_BCHW, patch_px=self.patch_px, stride_px=self.stride_px)

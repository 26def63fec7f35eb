"""Hard negatives of a step: drawn on the device, and copied to the CPU while the device goes on.

Shapes: B pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.data.batch import Draws
from tbps.nn.device_copy import to_device
from tbps.nn.host_copy import HostCopy
from tbps.objectives.hard_negatives import draw_negatives, negative_weights


@dataclass(kw_only=True)
class Negatives:
    """Hard negatives on the host."""

    image_B: NDArray[np.int64]
    """Hard negative image of each caption, a row of the batch."""
    caption_B: NDArray[np.int64]
    """Hard negative caption of each image, a row of the batch."""
    has_B: NDArray[np.bool_]
    """Whether the pair's group holds another identity."""

    def captions(self) -> NDArray[np.int64]:
        """Captions of the 3B matching rows: positives, (negative image, caption), (image, negative caption)."""
        own = np.arange(len(self.image_B))
        return np.concatenate([own, own, self.caption_B])

    def images(self) -> NDArray[np.int64]:
        """Images of the 3B matching rows."""
        own = np.arange(len(self.image_B))
        return np.concatenate([own, self.image_B, own])


class PendingNegatives:
    """Hard negatives on their way to the CPU. Call `wait()` late, so that the device never idles: it is the step's one sync.

    They are drawn by inverting the cumulated probabilities at the uniform numbers `draws["negatives"]`; `draws.recorded` may
    hold "negative_image" and "negative_caption", rows of the batch (B,), in place of drawn ones.
    """

    def __init__(
        self, *, i2t_BC: Tensor, t2i_BC: Tensor, identity_B: Tensor, group_pairs: int, draws: Draws, floor: float = 0.0
    ) -> None:
        """floor: added to every probability, as APTM's code has it."""
        weight_t2i, has_B = negative_weights(t2i_BC[:, :group_pairs], identity_B, floor=floor)
        weight_i2t, _ = negative_weights(i2t_BC[:, :group_pairs], identity_B, floor=floor)
        self.has_B = has_B
        uniform_B2 = to_device(draws["negatives"], identity_B.device)
        image_B = draws.recorded.get("negative_image")
        if image_B is None:
            image_B = draw_negatives(weight_t2i, uniform_B2[:, 0])
        caption_B = draws.recorded.get("negative_caption")
        if caption_B is None:
            caption_B = draw_negatives(weight_i2t, uniform_B2[:, 1])
        self._copy = HostCopy(torch.stack([image_B.to(has_B.device), caption_B.to(has_B.device), has_B.long()]))

    def wait(self) -> Negatives:
        """Block until the copy is there."""
        image_B, caption_B, has_B = self._copy.wait().numpy()
        return Negatives(image_B=image_B, caption_B=caption_B, has_B=has_B.astype(bool))

"""CLIP's two towers together, as the methods of its family hold them."""

from __future__ import annotations

from torch import nn

from tbps.nn.clip_image import ClipImageTower
from tbps.nn.clip_text import ClipTextTower


class ClipTowers(nn.Module):
    """Both towers. A method of CLIP's family holds them as `self.towers`: converted weights are named so."""

    def __init__(self, *, image: ClipImageTower, text: ClipTextTower) -> None:
        super().__init__()
        self.image = image
        self.text = text

"""Sizes of CLIP's two towers, an image encoder and a text encoder whose features are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tbps.config.ranges import Count, CountOrNone, Range, check_ranges

PositionResize = Literal["bilinear", "open-clip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTowerSizes:
    """CLIP's vision transformer. Defaults: ViT-B/16."""

    width: Count = 768
    """Numbers that describe a patch; a multiple of `heads`."""
    layers: Count = 12
    """Blocks."""
    heads: Count = 12
    """Attention heads of a block."""
    intermediate: Count = 3072
    """Width inside the feed-forward part of a block."""
    patch_px: Count = 16
    """Height and width of a patch."""
    stride_px: CountOrNone = 0
    """Pixels from one patch to the next; 0 = `patch_px`. Less lets patches overlap, as in TransReID."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.towers.image")
        _check_heads("method.towers.image", self.width, self.heads)
        if self.stride_px > self.patch_px:
            raise ValueError(
                f"method.towers.image.stride_px is {self.stride_px}, expected at most method.towers.image.patch_px"
                f" ({self.patch_px}): pixels between the patches would not be seen; change one of them"
            )

    @property
    def step_px(self) -> int:
        """Pixels from one patch to the next."""
        return self.stride_px or self.patch_px


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTowerSizes:
    """CLIP's text transformer, in which a token sees only those before it. Defaults: that of ViT-B/16."""

    width: Count = 512
    """Numbers that describe a token; a multiple of `heads`."""
    layers: Count = 12
    """Blocks."""
    heads: Count = 8
    """Attention heads of a block."""
    intermediate: Count = 2048
    """Width inside the feed-forward part of a block."""
    vocabulary_size: Annotated[int, Range(4, because="a word, the mask, and the ids of start and end")] = 49_408
    """Different token ids; CLIP's byte-pair encoding has 49408."""
    max_positions: Annotated[int, Range(2, because="the start token and the end token")] = 77
    """The longest caption in tokens, start and end token included."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.towers.text")
        _check_heads("method.towers.text", self.width, self.heads)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSizes:
    """CLIP's two towers. Defaults: ViT-B/16 as OpenAI published it (arXiv 2103.00020)."""

    image: ImageTowerSizes = field(default_factory=ImageTowerSizes)
    """The image encoder."""
    text: TextTowerSizes = field(default_factory=TextTowerSizes)
    """The text encoder."""
    features: Count = 512
    """Numbers of a feature: both towers project to as many."""
    quick_gelu: bool = True
    """The activation x sigmoid(1.702 x), with which OpenAI's weights were trained; off = the exact GELU, as most weights of
    open_clip under a name without `-quickgelu`."""
    position_resize: PositionResize = "bilinear"
    """How the image positions of weights to start from get to another grid of patches: `bilinear`, as IRRA and TBPS-CLIP
    do, or `open-clip`: bicubic with antialiasing."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.towers")

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image. ValueError where an image has no whole patch, or pixels are left over.

        With overlapping patches up to `stride_px` - 1 pixels are left over, as in the official code of IRRA.
        """
        patch, step = self.image.patch_px, self.image.step_px
        overlap = step < patch
        if min(image_px) < patch or (not overlap and any(side % patch for side in image_px)):
            raise ValueError(
                f"data.image_px is {image_px[0]} {image_px[1]}, expected"
                f" {'at least' if overlap else 'multiples of'} method.towers.image.patch_px ({patch}); change one of them"
            )
        return (image_px[0] - patch) // step + 1, (image_px[1] - patch) // step + 1

    def told(self) -> dict[str, str]:
        """What no tensor's shape tells of towers, as the metadata of a file of weights says it."""
        return {
            "quick_gelu": str(int(self.quick_gelu)),
            "image_heads": str(self.image.heads),
            "text_heads": str(self.text.heads),
        }


def _check_heads(path: str, width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{path}.width is {width}, expected a multiple of {path}.heads ({heads}); change one of them")

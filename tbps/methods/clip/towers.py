"""Building CLIP's two towers from their sizes."""

from __future__ import annotations

from tbps.config.clip_sizes import ClipSizes
from tbps.nn.clip_image import ClipImageTower
from tbps.nn.clip_text import ClipTextTower
from tbps.nn.clip_towers import ClipTowers


def build_towers(sizes: ClipSizes, *, image_px: tuple[int, int]) -> ClipTowers:
    """Both towers with random weights, for images of this height and width."""
    image, text = sizes.image, sizes.text
    return ClipTowers(
        image=ClipImageTower(
            grid=sizes.grid(image_px),
            patch_px=image.patch_px,
            stride_px=image.step_px,
            width=image.width,
            layers=image.layers,
            heads=image.heads,
            intermediate=image.intermediate,
            features=sizes.features,
            quick_gelu=sizes.quick_gelu,
            position_resize=sizes.position_resize,
        ),
        text=ClipTextTower(
            vocabulary_size=text.vocabulary_size,
            max_positions=text.max_positions,
            width=text.width,
            layers=text.layers,
            heads=text.heads,
            intermediate=text.intermediate,
            features=sizes.features,
            quick_gelu=sizes.quick_gelu,
        ),
    )

"""Sizes of the encoders that methods are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tbps.config.ranges import Count, Positive, Range, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Vit:
    """Vision transformer. Defaults: ViT-B/16."""

    width: Count = 768
    """Numbers that describe a patch; a multiple of `heads`."""
    depth: Count = 12
    """Blocks."""
    heads: Count = 12
    """Attention heads of a block."""
    patch_px: Count = 16
    """Height and width of a patch; both sides of an image are multiples of it."""
    init_std: Positive = 0.02
    """Spread of random weights of dense layers; narrow encoders learn faster with about width ** -0.5."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.vit")
        _check_heads("method.vit.width", self.width, "method.vit.heads", self.heads)

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return image_px[0] // self.patch_px, image_px[1] // self.patch_px


@dataclass(frozen=True, kw_only=True, slots=True)
class Swin:
    """Swin transformer. Defaults: Swin-B with windows of 8, as APTM has it."""

    width: Count = 128
    """Numbers that describe a token of the first stage; each later stage has twice as many as the one before."""
    depths: Annotated[tuple[int, ...], Range(1)] = (2, 2, 18, 2)
    """Blocks of each stage."""
    heads: Annotated[tuple[int, ...], Range(1)] = (4, 8, 16, 32)
    """Attention heads of each stage; they divide its width."""
    window: Count = 8
    """Rows and columns of a window; a stage whose shorter side is no longer has windows of that side, and no shifts."""
    patch_px: Count = 4
    """Height and width of a patch."""
    drop_path: Annotated[float, Range(0, below=1)] = 0.1
    """How often a training step leaves out the last block's branches for an image; from the first block on, whose never
    are, it rises in a straight line."""
    init_std: Positive = 0.02
    """Spread of random weights of dense layers; narrow encoders learn faster with about width ** -0.5."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.swin")
        if len(self.depths) != len(self.heads):
            raise ValueError(
                f"method.swin.depths names {len(self.depths)} stages and method.swin.heads {len(self.heads)}, expected the"
                " same number; change one of them"
            )
        for stage, heads in enumerate(self.heads):
            _check_heads(f"the width of stage {stage} of method.swin", self.width * 2**stage, "its heads", heads)

    @property
    def last_width(self) -> int:
        """Width of the tokens of the last stage."""
        return int(self.width * 2 ** (len(self.depths) - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bert:
    """BERT whose last layers (or all) carry cross-attention to the image. Defaults: BERT-base."""

    width: Count = 768
    """Numbers that describe a token; a multiple of `heads`."""
    layers: Count = 12
    """Layers of text and cross encoder together."""
    heads: Count = 12
    """Attention heads of a layer."""
    intermediate: Count = 3072
    """Width inside the feed-forward part of a layer."""
    vocabulary_size: Count = 30_522
    """Word pieces that the encoder knows; the vocabulary file must have as many."""
    max_positions: Count = 512
    """The longest caption in tokens."""
    fusion_layer: Annotated[int, Range(1, because="the text encoder needs a layer")] = 6
    """The first `fusion_layer` layers are the text encoder; the rest belong to the cross encoder only."""
    full_cross_attention: bool = False
    """Every layer carries cross-attention and the cross encoder runs all of them from token ids (MARS)."""
    dropout: Annotated[float, Range(0, below=1)] = 0.1
    """Share of hidden units and attention weights that a training step leaves out."""
    cls_id: Annotated[int, Range(1, because="0 is padding")] = 101
    """Token id of [CLS] in the vocabulary (bert-base-uncased: 101)."""
    mask_id: Annotated[int, Range(1, because="0 is padding")] = 103
    """Token id of [MASK] in the vocabulary (bert-base-uncased: 103)."""
    init_std: Positive = 0.02
    """Spread of random weights of dense layers; narrow encoders learn faster with about width ** -0.5."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.bert")
        _check_heads("method.bert.width", self.width, "method.bert.heads", self.heads)
        if self.fusion_layer > self.layers - (not self.full_cross_attention):
            raise ValueError(
                f"method.bert.fusion_layer is {self.fusion_layer}, expected at most"
                f" {self.layers - (not self.full_cross_attention)} of {self.layers} layers: the matching head sees the image"
                " only through the layers behind it; change method.bert.fusion_layer or method.bert.layers"
            )
        for name, found in (("cls_id", self.cls_id), ("mask_id", self.mask_id)):
            if found >= self.vocabulary_size:
                raise ValueError(
                    f"method.bert.{name} is {found}, expected less than method.bert.vocabulary_size ({self.vocabulary_size})"
                )
        if self.cls_id == self.mask_id:
            raise ValueError(
                f"method.bert.cls_id and method.bert.mask_id are both {self.cls_id}, expected the two ids of the vocabulary"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeDecoder:
    """MARS's image decoder with cross-attention to the text."""

    depth: Count = 4
    """Blocks."""
    heads: Count = 8
    """Attention heads of a block; they divide the image encoder's width."""
    mask_ratio: Annotated[float, Range(above=0, below=1)] = 0.75
    """Share of an image's patches that are removed and rebuilt."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.mae")


def _check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    if width % heads:
        raise ValueError(f"{width_name} is {width}, expected a multiple of {heads_name} ({heads}); change one of them")

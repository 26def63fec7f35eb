"""What a method of ALBEF's family is built on: encoders with random weights, and the settings that the family shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tbps.config.methods.albef_family import AlbefFamily
from tbps.nn.bert import Bert
from tbps.nn.vit import VisionTransformer


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Encoders and shared settings; `tbps/config/methods/albef_family.py` says what each setting means."""

    image_encoder: VisionTransformer
    text_encoder: Bert
    projection: int
    temperature: float
    queue_pairs: int
    momentum: float
    alpha: float
    momentum_dropout: bool
    padding: Literal["packed", "official"]
    empty_queue: Literal["counted", "ignored"]
    cls_id: int
    mask_id: int


def build_backbone(config: AlbefFamily, *, image_px: tuple[int, int]) -> Backbone:
    """Of a method's settings."""
    vit, bert = config.vit, config.bert
    return Backbone(
        image_encoder=VisionTransformer(
            image_px=image_px,
            patch_px=vit.patch_px,
            width=vit.width,
            depth=vit.depth,
            heads=vit.heads,
            init_std=vit.init_std,
        ),
        text_encoder=Bert(
            width=bert.width,
            layers=bert.layers,
            heads=bert.heads,
            intermediate=bert.intermediate,
            vocabulary_size=bert.vocabulary_size,
            max_positions=bert.max_positions,
            fusion_layer=bert.fusion_layer,
            full_cross_attention=bert.full_cross_attention,
            image_width=vit.width,
            dropout=bert.dropout,
            init_std=bert.init_std,
        ),
        projection=config.projection,
        temperature=config.temperature,
        queue_pairs=config.queue_pairs,
        momentum=config.momentum,
        alpha=config.alpha,
        momentum_dropout=config.momentum_dropout,
        padding=config.padding,
        empty_queue=config.empty_queue,
        cls_id=bert.cls_id,
        mask_id=bert.mask_id,
    )

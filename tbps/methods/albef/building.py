"""Building the encoders of a method from its hyper-parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tbps.nn.bert import Bert
from tbps.nn.vit import VisionTransformer

if TYPE_CHECKING:
    from tbps.config.methods.aga import Aga
    from tbps.config.methods.albef import Albef
    from tbps.config.methods.laip import Laip
    from tbps.config.methods.mars import Mars
    from tbps.config.methods.rasa import Rasa


def family_arguments(config: Albef | Rasa | Mars | Aga | Laip, *, image_px: tuple[int, int]) -> dict[str, Any]:
    """Arguments that all members of ALBEF's family share; encoders with random weights."""
    vit, bert = config.vit, config.bert
    return {
        "image_encoder": VisionTransformer(
            image_px=image_px,
            patch_px=vit.patch_px,
            width=vit.width,
            depth=vit.depth,
            heads=vit.heads,
            init_std=vit.init_std,
        ),
        "text_encoder": Bert(
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
        "projection": config.projection,
        "temperature": config.temperature,
        "queue_pairs": config.queue_pairs,
        "momentum": config.momentum,
        "alpha": config.alpha,
        "momentum_dropout": config.momentum_dropout,
        "padding": config.padding,
        "empty_queue": config.empty_queue,
        "cls_id": bert.cls_id,
        "mask_id": bert.mask_id,
    }

"""Building BAMG's fusion from its settings."""

from __future__ import annotations

from tbps.config.methods.bamg import Bamg
from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion


def build_fusion(config: Bamg) -> BottleneckFusion | CrossFusion:
    """The kind of fusion that `method.fusion` names, with random weights."""
    width, layers, heads = config.towers.features, config.fusion_layers, config.fusion_heads
    if config.fusion == "cross":
        return CrossFusion(width=width, layers=layers, heads=heads, quick_gelu=config.towers.quick_gelu)
    return BottleneckFusion(
        width=width,
        layers=layers,
        heads=heads,
        tokens=config.fusion_tokens,
        quick_gelu=config.towers.quick_gelu,
        order=config.fusion_order,
    )

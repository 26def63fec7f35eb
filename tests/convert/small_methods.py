"""The smallest methods that have every part, and their weights under our names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.methods.albef import Albef
from tbps.config.methods.mars import Mars
from tbps.config.methods.rasa import Rasa
from tbps.methods.registry import build_method

BERT = {
    "width": 16,
    "layers": 4,
    "heads": 2,
    "intermediate": 32,
    "vocabulary_size": 30,
    "max_positions": 12,
    "dropout": 0.0,
    "cls_id": 2,
    "mask_id": 4,
}


def tiny(kind: str = "rasa", *, image_px: tuple[int, int] = (32, 32), seed: int = 0, **changes: Any) -> Any:
    """A method with random weights; the momentum encoder equals the online encoder, as after construction."""
    bert = Bert(**{**BERT, "fusion_layer": 2, "full_cross_attention": kind == "mars", **changes.pop("bert", {})})
    vit = Vit(**{"width": 24, "depth": 2, "heads": 3, "patch_px": 8, **changes.pop("vit", {})})
    config = {"albef": Albef, "rasa": Rasa, "mars": Mars}[kind]
    if kind == "mars":
        changes.setdefault("mae", MaeDecoder(depth=1, heads=2))
    torch.manual_seed(seed)
    return build_method(
        config(vit=vit, bert=bert, **{"projection": 6, "queue_pairs": 5, **changes}), image_px=image_px
    ).eval()


def state(method: nn.Module) -> dict[str, Tensor]:
    """A copy of everything it holds."""
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def online(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the online encoder."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith("online.")}


def scattered(method: nn.Module) -> nn.Module:
    """Every tensor moved by its own noise: nothing is zero, one, or equal to its momentum encoder."""
    with torch.no_grad():
        for tensor in method.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.randn_like(tensor)
    return method

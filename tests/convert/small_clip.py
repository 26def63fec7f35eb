"""CLIP's two towers in miniature, and files of their weights as others write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.convert.clip_names import to_clip
from tbps.methods.clip.towers import build_towers

SIZES = ClipSizes(
    image=ImageTowerSizes(width=64, layers=2, heads=1, intermediate=256, patch_px=8),
    text=TextTowerSizes(width=64, layers=3, heads=1, intermediate=256, vocabulary_size=40, max_positions=10),
    features=16,
)
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": [32, 16], "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 10, "vocab_size": 40, "width": 64, "heads": 1, "layers": 3},
}


class Holder(nn.Module):
    """A method's towers alone."""

    def __init__(self, sizes: ClipSizes = SIZES, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.towers = build_towers(sizes, image_px=(32, 16))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def state(seed: int = 1) -> dict[str, Tensor]:
    """OpenAI's keys with random weights."""
    return to_clip(Holder(seed=seed).state_dict()) | {"logit_scale": torch.tensor(4.6)}


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def same(holder: Holder, seed: int = 1) -> bool:
    """Whether the holder has the weights of `state`, the logit scale aside."""
    expected = Holder(seed=seed).towers.state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in holder.towers.state_dict().items())


def written(folder: Path, tensors: dict[str, Any], name: str = "weights.pth") -> Path:
    torch.save(tensors, folder / name)
    return folder / name


ORIGINS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Any]], list[str]]] = {
    "open_clip, bare": (lambda tensors: tensors, []),
    "open_clip's training": (
        lambda tensors: {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        [],
    ),
    "open_clip, text tower apart": (
        lambda tensors: {
            name if name.startswith(("visual.", "logit")) else f"text.{name}": tensor for name, tensor in tensors.items()
        },
        [],
    ),
    "IRRA": (
        lambda tensors: {
            "model": {f"base_model.{name}": tensor for name, tensor in tensors.items() if name != "logit_scale"}
            | {"classifier.weight": torch.zeros(3, 16)},
            "optimizer": {},
        },
        ["classifier.weight"],
    ),
    "IRRA, data-parallel": (
        lambda tensors: {
            "model": {f"module.base_model.{name}": tensor for name, tensor in tensors.items() if name != "logit_scale"}
        },
        [],
    ),
    "TBPS-CLIP": (
        lambda tensors: {
            "model": {
                name if name.startswith(("visual.", "logit")) else f"encode_text.{name}": tensor
                for name, tensor in tensors.items()
            }
            | {"simclr_mlp.0.weight": torch.zeros(3, 16)},
        },
        ["simclr_mlp.0.weight"],
    ),
}


def hugging_face_model(**text: Any) -> Any:
    torch.manual_seed(2)
    image = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    return CLIPModel(
        CLIPConfig(
            projection_dim=16,
            vision_config={**image, "image_size": 32, "patch_size": 8, "projection_dim": 16},
            text_config={
                "hidden_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 1,
                "intermediate_size": 256,
                "vocab_size": 40,
                "max_position_embeddings": 10,
                "projection_dim": 16,
                "eos_token_id": 39,
                **text,
            },
        )
    ).eval()

"""CLIP's weights that are not those of a method's towers, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_clip import ORIGINS, SIZES, Holder, state, written
from torch import Tensor, nn

from tbps.config.clip_sizes import ImageTowerSizes
from tbps.convert.clip import load_clip
from tbps.convert.foreign import convert
from tbps.convert.weights import load_weights


def test_another_size_is_named_with_the_settings_that_fit(tmp_path: Path) -> None:
    path = written(tmp_path, state())
    wide = replace(SIZES, image=ImageTowerSizes(), features=8)
    with pytest.raises(ValueError) as raised:
        load_clip(Holder(wide), str(path))
    assert str(raised.value) == (
        f"{path}: its towers are of another size (towers.image.width 64, expected 768); set --method.towers.image.width 64"
        " --method.towers.image.layers 2 --method.towers.image.intermediate 256 --method.towers.image.patch-px 8"
        " --method.towers.features 16 --method.towers.image.heads 1, or take weights of this size"
    )


def test_a_converted_file_of_another_size_or_activation_is_refused_too(tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    convert(written(tmp_path, ORIGINS["TBPS-CLIP"][0](state())), out, grid=(4, 2))
    with pytest.raises(ValueError, match=r"its towers are of another size \(towers.features 16, expected 8\)"):
        load_weights(Holder(replace(SIZES, features=8)), out)
    with pytest.raises(ValueError, match=r"trained with QuickGELU, expected the exact GELU"):
        load_weights(Holder(replace(SIZES, quick_gelu=False)), out)


def test_positions_of_an_unknown_grid_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, state())
    with pytest.raises(ValueError, match="position table has 8 patches, which no square has; say rows and columns with"):
        convert(path, tmp_path / "ours.safetensors")


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "a ResNet": (
        lambda tensors: tensors | {"visual.layer1.0.conv1.weight": torch.zeros(1)},
        "its image tower is a ResNet, expected CLIP's vision transformer",
    ),
    "timm's tower": (
        lambda tensors: tensors | {"visual.trunk.cls_token": torch.zeros(1)},
        "its image tower is a model of timm, expected CLIP's vision transformer",
    ),
    "no CLIP": (
        lambda tensors: {"weight": torch.zeros(2)},
        "no CLIP weights (found weight, ...), expected a file of OpenAI",
    ),
    "a block without a part": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "resblocks.0.mlp.c_fc" not in name},
        "taken for clip weights, and 4 essential tensors are missing (towers.image.blocks.0.fc1.weight, ",
    ),
    "no text tower": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")},
        "essential tensors are missing (towers.text.",
    ),
    "NaN": (
        lambda tensors: tensors | {"ln_final.bias": torch.full((64,), float("nan"))},
        "1 tensors hold NaN or infinite numbers (towers.text.norm_post.bias)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be_used_are_one_sentence(tmp_path: Path, name: str) -> None:
    change, sentence = BROKEN[name]
    path = written(tmp_path, change(state()))
    with pytest.raises(ValueError) as raised:
        load_clip(Holder(), str(path))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_method_without_towers_is_told_where_its_weights_belong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this method has no CLIP towers; clear it, and name its encoders in start.vit"):
        load_clip(nn.Linear(1, 1), "ViT-B-16-quickgelu:openai")

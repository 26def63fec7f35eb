"""open_clip's models by name and tag, and names that it does not have, in one sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_clip import CONFIG, Holder, same, state, written

from tbps.convert import open_clip_models
from tbps.convert.clip import load_clip


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """open_clip's registry as it is, and instead of a download this file."""
    path = written(tmp_path, state(), "downloaded.bin")
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda config: str(path))
    return path


def test_a_name_of_open_clip_finds_its_weights(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_clip.get_model_config", lambda name: CONFIG)
    holder = Holder()
    load_clip(holder, "ViT-B-16-quickgelu:openai")
    assert same(holder)


WRONG_NAMES = {
    "ViT-B-16:openai": (
        "ViT-B-16:openai: these weights were trained with QuickGELU, and the name ViT-B-16 means the exact GELU; say"
        " ViT-B-16-quickgelu:openai"
    ),
    "ViT-B-16-quickgelu:laion2b_s34b_b88k": (
        "these weights were trained with the exact GELU, and the name ViT-B-16-quickgelu means QuickGELU; say"
        " ViT-B-16:laion2b_s34b_b88k"
    ),
    "ViT-B16:openai": "has no model ViT-B16, expected one of its",
    "vit-l-14-quickgelo:openai": "nearest: ViT-L-14-quickgelu, ",
    "ViT-B-16:laion": "has no weights laion of ViT-B-16, expected one of openai, laion400m_e31, ",
    "RN50-quickgelu:openai": "RN50-quickgelu: its image tower is a ResNet, expected CLIP's vision transformer; choose",
    "ViT-B-16-SigLIP:webli": "ViT-B-16-SigLIP: its towers differ from CLIP's vision and text transformer (init_logit_bias, ",
    "roberta-ViT-B-32:laion2b_s12b_b32k": "its towers differ from CLIP's vision and text transformer (text_cfg.hf_",
}


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_wrong_name_of_open_clip_is_one_sentence(published: Path, name: str) -> None:
    with pytest.raises(ValueError) as raised:
        load_clip(Holder(), name)
    assert WRONG_NAMES[name] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_a_network_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(config: Any) -> str:
        raise FileNotFoundError("Failed to download file (open_clip_pytorch_model.bin)\nand more")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", offline)
    with pytest.raises(ValueError) as raised:
        load_clip(Holder(), "ViT-B-16-quickgelu:openai")
    assert str(raised.value) == (
        "ViT-B-16-quickgelu:openai: its weights are not in the cache and cannot be fetched from"
        " timm/vit_base_patch16_clip_224.openai/ (Failed to download file (open_clip_pytorch_model.bin)); fetch the file"
        " where there is a network, and name its path"
    )


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    assert not open_clip_models.is_open_clip_name(str(tmp_path / "a:b"))
    assert not open_clip_models.is_open_clip_name("openai/clip-vit-base-patch16")
    assert open_clip_models.is_open_clip_name("ViT-B-16-quickgelu:openai")

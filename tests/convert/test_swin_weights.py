"""Swin weights of the authors' files, timm and Hugging Face: the same image gives the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbps.convert.aptm_names import swin_keys
from tbps.convert.pretrained import load_vit
from tbps.convert.swin import from_swin, load_swin, resize_position_bias
from tbps.nn.bert import Bert
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.swin import SwinTransformer


class Tiny(nn.Module):
    """What holds an image encoder, as a method does."""

    def __init__(self, *, window: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        swin = SwinTransformer(
            image_px=(32, 32), patch_px=4, width=8, depths=(2, 2), heads=(2, 4), window=window, drop_path=0.0
        )
        text = Bert(
            width=8,
            layers=2,
            heads=2,
            intermediate=8,
            vocabulary_size=9,
            max_positions=8,
            fusion_layer=1,
            full_cross_attention=False,
            image_width=16,
            dropout=0.0,
        )
        self.online = DualEncoder(image_encoder=swin, text_encoder=text, projection=4, word_head=False)


def noisy(model: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def saved(folder: Path, state: dict[str, Tensor]) -> str:
    torch.save({"model": state}, folder / "swin.pth")
    return str(folder / "swin.pth")


def hugging_face() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2}
    return noisy(transformers.SwinModel(transformers.SwinConfig(**sizes), add_pooling_layer=False))


def timm() -> Any:
    models = pytest.importorskip("timm.models.swin_transformer")
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 2}
    return noisy(models.SwinTransformer(num_classes=5, **sizes))


@torch.no_grad()
def test_hugging_faces(tmp_path: Path) -> None:
    model, method, image = hugging_face(), Tiny(), torch.randn(2, 3, 32, 32)
    model.save_pretrained(tmp_path)  # files keep the keys that modules had before transformers 5
    report = load_vit(method, str(tmp_path))
    assert report.missing == [] and report.unplaced == [] and report.resized == []
    assert torch.allclose(method.online.image_encoder(image)[:, 1:], model(pixel_values=image).last_hidden_state, atol=2e-5)


@torch.no_grad()
def test_timms_whose_windows_agree_on_squares(tmp_path: Path) -> None:
    model, method, image = timm(), Tiny(), torch.randn(2, 3, 32, 32)
    report = load_vit(method, saved(tmp_path, model.state_dict()))
    assert report.missing == [] and all(name.startswith("head.") for name in report.unplaced)
    assert torch.allclose(method.online.image_encoder(image)[:, 1:], model.forward_features(image).flatten(1, 2), atol=2e-5)


def test_tables_of_another_window_are_resized_and_said(tmp_path: Path) -> None:
    wide, method = Tiny(window=4), Tiny()
    state = swin_keys(wide.online.image_encoder.state_dict())
    report = load_swin(method, saved(tmp_path, state))
    assert len(report.resized) == 4 and report.missing == []
    own = method.online.image_encoder.stages[0].blocks[0].position_bias
    table = wide.online.image_encoder.stages[0].blocks[0].position_bias
    assert torch.equal(own, resize_position_bias(table.detach(), places=9))


def test_a_table_that_is_a_plane_stays_one() -> None:
    """A spline repeats a plane exactly, and the middle rows of a larger table lie on the same one."""
    offset = torch.arange(-3.0, 4.0)
    table_TH = (2 * offset[:, None] - offset).reshape(49, 1)
    found = resize_position_bias(table_TH, places=9).view(3, 3)
    small = torch.arange(-1.0, 2.0)
    assert torch.allclose(found, 2 * small[:, None] - small, atol=1e-6)
    with pytest.raises(ValueError, match="has 50 rows, expected the square of an odd number"):
        resize_position_bias(torch.zeros(50, 1), places=9)


def test_what_is_no_swin_or_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no Swin weights .* expected a Swin"):
        load_vit(Tiny(), saved(tmp_path, {"cls_token": torch.zeros(1, 1, 8), "patch_embed.proj.weight": torch.ones(2)}))
    state = swin_keys(Tiny().online.image_encoder.state_dict())
    del state["layers.1.blocks.0.mlp.fc2.bias"]
    with pytest.raises(ValueError, match=r"swin weights, and 1 essential .*stages.1.blocks.0.fc2.bias"):
        load_vit(Tiny(), saved(tmp_path, state))


def test_buffers_that_follow_from_sizes_are_left_out() -> None:
    state = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4), "head.weight": torch.zeros(2)}
    converted = from_swin(state)
    assert converted.duplicates == ["layers.0.blocks.0.attn.relative_position_index"]
    assert converted.unplaced == ["head.weight"] and converted.tensors == {}

"""CLIP's weights of every origin into a method's towers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_clip import CONFIG, ORIGINS, SIZES, Holder, contiguous, hugging_face_model, same, state, written

from tbps.command import main
from tbps.convert.clip import load_clip
from tbps.convert.weights import load_weights
from tbps.methods.clip.towers import build_towers
from tbps.nn.clip_text import pack_captions


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_file_of_every_origin_is_placed_whole(tmp_path: Path, origin: str) -> None:
    wrap, unplaced = ORIGINS[origin]
    path, holder = written(tmp_path, wrap(state())), Holder()
    report = load_clip(holder, str(path))
    assert same(holder)
    assert report.unplaced == unplaced
    if "IRRA" in origin:  # whose scale is a constant
        assert report.missing == ["logit_scale"]
    else:
        assert report.missing == []
        assert holder.logit_scale.item() == pytest.approx(4.6)


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_file_of_every_origin_is_converted(tmp_path: Path, origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrap, unplaced = ORIGINS[origin]
    path, out, holder = written(tmp_path, wrap(state())), tmp_path / "ours.safetensors", Holder()
    assert main(["convert", str(path), str(out), "--kind", "clip", "--grid", "4", "2"]) == 0
    printed = capsys.readouterr().out
    assert f"{path}: clip weights" in printed
    assert all(name in printed for name in unplaced)
    load_weights(holder, out)
    assert same(holder)


@torch.no_grad()
def test_a_hugging_face_folder_gives_what_its_own_model_gives(tmp_path: Path) -> None:
    model = hugging_face_model()
    model.save_pretrained(tmp_path / "clip")
    holder = Holder()
    holder.towers = build_towers(SIZES, image_px=(32, 32))
    report = load_clip(holder, str(tmp_path / "clip"))
    assert report.missing == report.unplaced == []
    image, ids = torch.randn(2, 3, 32, 32), torch.tensor([[38, 5, 7, 39, 0, 0], [38, 1, 2, 3, 4, 39]])
    expected = model.visual_projection(model.vision_model(pixel_values=image).pooler_output)
    assert torch.allclose(holder.towers.image(image, pooled=True), expected, atol=1e-5)
    expected = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    text = pack_captions(ids, (4, 6), device=torch.device("cpu"))
    assert torch.allclose(holder.towers.text(text, pooled=True), expected, atol=1e-5)


def test_a_hugging_face_folder_with_another_activation_is_refused(tmp_path: Path) -> None:
    model = hugging_face_model()
    model.save_pretrained(tmp_path / "clip")
    config = json.loads((tmp_path / "clip/config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["hidden_act"] = "gelu"
    (tmp_path / "clip/config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"clip: its towers were trained with the exact GELU, expected QuickGELU; set --method"
    ):
        load_clip(Holder(), str(tmp_path / "clip"))


def test_a_folder_of_open_clip_is_read_with_its_config(tmp_path: Path) -> None:
    save_file(contiguous(state()), tmp_path / "open_clip_model.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    holder = Holder()
    assert load_clip(holder, str(tmp_path)).resized == []  # 32 x 16 pixels in patches of 8, as its config says
    assert same(holder)
    config.write_text(json.dumps({"model_cfg": CONFIG | {"quick_gelu": False}}))
    with pytest.raises(ValueError, match="trained with the exact GELU, expected QuickGELU"):
        load_clip(Holder(), str(tmp_path))
    narrow = {**CONFIG["vision_cfg"], "head_width": 16}
    config.write_text(json.dumps({"model_cfg": CONFIG | {"vision_cfg": narrow}}))
    with pytest.raises(
        ValueError, match=r"its image tower has 4 attention heads, expected 1; set --method.towers.image.heads"
    ):
        load_clip(Holder(), str(tmp_path))

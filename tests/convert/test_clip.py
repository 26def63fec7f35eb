"""CLIP's weights of every origin into a method's towers, and those that do not fit, in one sentence each."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from tbps.command import main
from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.convert import open_clip_models
from tbps.convert.clip import load_clip
from tbps.convert.clip_names import to_clip
from tbps.convert.export import export
from tbps.convert.foreign import convert
from tbps.convert.torchscript import read_torchscript
from tbps.convert.weights import load_weights
from tbps.methods.clip.towers import build_towers
from tbps.nn.clip_text import pack_captions

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


# -- where weights come from ---------------------------------------------------------------------------------------------


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


def test_an_archive_of_openai_is_read_and_none_of_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = archive(tmp_path), state()
    with pytest.raises(RuntimeError, match="TorchScript"):  # torch's own careful reader refuses it
        torch.load(path, weights_only=True)
    monkeypatch.setattr(torch.jit, "load", None)
    found = read_torchscript(path)
    assert found.keys() == {*tensors, "input_resolution", "context_length", "vocab_size"}
    holder = Holder()
    report = load_clip(holder, str(path))
    assert report.missing == report.unplaced == []
    expected = Holder(seed=1)
    for name, tensor in holder.towers.state_dict().items():
        assert torch.allclose(tensor, expected.towers.state_dict()[name], atol=2e-3)  # stored in half precision
    exact = replace(SIZES, quick_gelu=False)
    with pytest.raises(ValueError, match=r"were trained with QuickGELU, expected the exact GELU"):
        load_clip(Holder(exact), str(path))


class Published(nn.Module):
    """What OpenAI's archives hold: the model in half precision, and three numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        model = open_clip.model.CLIP(
            embed_dim=16, vision_cfg=CONFIG["vision_cfg"], text_cfg=CONFIG["text_cfg"], quick_gelu=True
        )
        model.load_state_dict(state(), strict=False)
        for name, part in model.named_children():
            self.add_module(name, part)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(model, name))
        for name, value in (("input_resolution", 32), ("context_length", 10), ("vocab_size", 40)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self.transformer(self.token_embedding(ids) + self.positional_embedding)  # type: ignore[operator]
        return self.visual(image), self.ln_final(words) @ self.text_projection * self.logit_scale  # type: ignore[operator]


def archive(folder: Path) -> Path:
    path = folder / "ViT.pt"
    traced = torch.jit.trace(Published().eval(), (torch.randn(1, 3, 32, 16), torch.zeros(1, 10, dtype=torch.int64)))
    traced.half().save(str(path))
    return path


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_an_archive_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("evil/constants.pkl", pickle.dumps(()))
        file.writestr("evil/data.pkl", pickle.dumps(Runs()))
    with pytest.raises(ValueError, match=r"evil.pt: asks to run builtins.exec, which a file of weights must not"):
        load_clip(Holder(), str(path))


@pytest.mark.parametrize("damage", ["cut", "storage"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name)[: 4 if name.endswith("/data/0") else None])
        path = tmp_path / "new.pt"
    with pytest.raises(ValueError, match=r"\.pt: not a whole torch or safetensors file"):
        load_clip(Holder(), str(path))


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


# -- open_clip's names ---------------------------------------------------------------------------------------------------


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


# -- weights that do not fit ---------------------------------------------------------------------------------------------


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


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    assert not open_clip_models.is_open_clip_name(str(tmp_path / "a:b"))
    assert not open_clip_models.is_open_clip_name("openai/clip-vit-base-patch16")
    assert open_clip_models.is_open_clip_name("ViT-B-16-quickgelu:openai")


def test_metadata_says_what_no_shape_tells(tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    hugging_face_model().save_pretrained(tmp_path / "clip")
    convert(tmp_path / "clip", out)
    from tbps.convert.weights import read_weights

    _, metadata = read_weights(out)
    assert {name: metadata[name] for name in ("kind", "quick_gelu", "image_heads", "text_heads", "image_grid")} == {
        "kind": "clip",
        "quick_gelu": "1",
        "image_heads": "1",
        "text_heads": "1",
        "image_grid": "4x4",
    }
    assert len(load_file(out)) == len(Holder().state_dict())


def test_an_export_for_open_clip_is_loaded_by_it(tmp_path: Path) -> None:
    ours, out = tmp_path / "ours.safetensors", tmp_path / "official.pt"
    convert(written(tmp_path, ORIGINS["TBPS-CLIP"][0](state())), ours, grid=(4, 2))
    text = export(ours, out, official=True)
    assert f"{out}: {len(state())} tensors under the keys of OpenAI and open_clip" in text
    model = open_clip.model.CLIP(embed_dim=16, vision_cfg=CONFIG["vision_cfg"], text_cfg=CONFIG["text_cfg"], quick_gelu=True)
    loaded = open_clip.load_checkpoint(model, str(out))
    assert loaded.missing_keys == loaded.unexpected_keys == []
    assert all(torch.equal(tensor, state()[name]) for name, tensor in model.state_dict().items())

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_methods import state, tiny
from torch import Tensor

from tbps.convert.pretrained import from_bert, load_bert, load_vit
from tbps.nn.packing import lay_out

transformers = pytest.importorskip("transformers")
LENGTHS = (5, 9, 3)


def random(model: Any) -> Any:
    """No tensor of it stays at a value that a wrong mapping would also have."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def bert(kind: str = "BertForMaskedLM", **changes: Any) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**{**sizes, "vocab_size": 30, "max_position_embeddings": 12, **changes})
    return random(getattr(transformers, kind)(config))


def vit(kind: str = "ViTModel", **changes: Any) -> Any:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    settings = {**sizes, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6, **changes}
    prefix = kind.removesuffix("Model").removesuffix("ForImageClassification")
    return random(getattr(transformers, kind)(getattr(transformers, f"{prefix}Config")(**settings)))


def captions() -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    ids = torch.randint(1, 30, (len(LENGTHS), max(LENGTHS)))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return ids * mask, mask.long()


@torch.no_grad()
def compare_text(method: Any, model: Any) -> None:
    """Hidden states after the text encoder's two layers, and after all four without an image, of real tokens."""
    ids, mask = captions()
    base = getattr(model, "bert", model)
    hidden = base(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    layout = lay_out(np.asarray(LENGTHS))
    packing = layout.to(torch.device("cpu"))
    for encoder in (method.online.text_encoder, method.momentum_encoder.text_encoder):
        x_ND = encoder.embed(ids[layout.sequence_N, layout.position_N], packing)
        for layer, block in enumerate(encoder.layers, start=1):
            x_ND = block(x_ND, packing, None)
            expected = hidden[layer][layout.sequence_N, layout.position_N]
            assert (x_ND - expected).abs().max() < 1e-5 * max(1, expected.abs().max()), layer
    if hasattr(model, "cls"):
        logits = getattr(model(input_ids=ids, attention_mask=mask), "logits", None)
        if logits is not None:
            expected = logits[layout.sequence_N, layout.position_N]
            assert (method.online.word_logits(x_ND) - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def compare_image(method: Any, model: Any, *, image_px: tuple[int, int] = (32, 32), **arguments: Any) -> None:
    image = torch.randn(2, 3, *image_px)
    expected = getattr(model, "vit", model)(pixel_values=image, **arguments).last_hidden_state
    for encoder in (method.online.image_encoder, method.momentum_encoder.image_encoder):
        assert (encoder(image) - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_bert_computes_what_transformers_computes(tmp_path: Path, kind: str) -> None:
    model = bert(kind)
    model.save_pretrained(tmp_path)
    method = tiny("rasa")
    before = state(method)
    report = load_bert(method, str(tmp_path))
    compare_text(method, model)
    word_head = [name for name in before if name.startswith("online.word_head.")]
    cross = [name for name in before if name.startswith("online.") and "cross_attention" in name]
    assert sorted(report.missing) == sorted(cross + (word_head if kind == "BertModel" else []))
    assert all(torch.equal(method.state_dict()[name], before[name]) for name in cross)
    pooler = "pooler.dense.weight" if kind == "BertModel" else "bert.pooler.dense.weight"
    assert (pooler in report.unplaced) == (kind != "BertForMaskedLM")
    assert ("cls.seq_relationship.bias" in report.unplaced) == (kind == "BertForPreTraining")
    image = [name for name in before if "image_encoder" in name]
    assert all(torch.equal(method.state_dict()[name], before[name]) for name in image)


def test_bert_with_the_first_files_names_and_its_word_head_stored_twice(tmp_path: Path) -> None:
    model = bert()
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor.clone()
        for key, tensor in model.state_dict().items()
    }
    assert "cls.predictions.decoder.weight" in old and "bert.embeddings.LayerNorm.gamma" in old
    torch.save(old | {"bert.embeddings.position_ids": torch.arange(12)[None]}, tmp_path / "pytorch_model.bin")
    method = tiny("rasa")
    report = load_bert(method, str(tmp_path))
    assert report.unplaced == []
    compare_text(method, model)
    method = tiny("rasa")
    assert load_bert(method, str(tmp_path / "pytorch_model.bin")).unplaced == []
    compare_text(method, model)
    duplicates = from_bert(old).duplicates
    assert duplicates == ["cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]


def test_layers_beyond_ours_are_reported_and_absent_ones_too(tmp_path: Path) -> None:
    bert(num_hidden_layers=5).save_pretrained(tmp_path / "five")
    report = load_bert(tiny("rasa"), str(tmp_path / "five"))
    assert "online.text_encoder.layers.4.fc1.bias" in report.unplaced and len(report.unplaced) == 12
    bert(num_hidden_layers=3).save_pretrained(tmp_path / "three")
    report = load_bert(tiny("rasa"), str(tmp_path / "three"))
    assert "online.text_encoder.layers.3.fc1.bias" in report.missing and "missing in the file" in report.text()


def test_a_word_head_without_a_place_is_reported(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path)
    method = tiny("albef")
    report = load_bert(method, str(tmp_path))
    assert len(report.unplaced) == 5 and all(name.startswith("online.word_head.") for name in report.unplaced)
    compare_text(method, transformers.BertModel.from_pretrained(tmp_path).eval())


def test_another_bert_is_refused(tmp_path: Path) -> None:
    bert(vocab_size=31).save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match=r"words: its vocabulary has 31 words, expected 30"):
        load_bert(tiny("rasa"), str(tmp_path / "words"))
    bert(num_attention_heads=4).save_pretrained(tmp_path / "heads")
    with pytest.raises(ValueError, match=r"heads: its config says 4 attention heads, expected 2"):
        load_bert(tiny("rasa"), str(tmp_path / "heads"))
    bert(intermediate_size=64).save_pretrained(tmp_path / "sizes")
    with pytest.raises(ValueError, match=r"sizes: not of this architecture \(online\.text_encoder\.layers\.0\.fc1"):
        load_bert(tiny("rasa"), str(tmp_path / "sizes"))


def test_vit_and_bert_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Their layers share names, and with equal sizes shapes."""
    vit(hidden_size=16, intermediate_size=32, num_attention_heads=2).save_pretrained(tmp_path / "vit")
    method = tiny("rasa")
    before = state(method)
    with pytest.raises(
        ValueError, match=r"vit: no BERT weights \(found .*expected a BERT; ViT weights belong in start\.vit"
    ):
        load_bert(method, str(tmp_path / "vit"))
    bert().save_pretrained(tmp_path / "bert")
    with pytest.raises(
        ValueError, match=r"bert: no ViT weights \(found .*expected a ViT; BERT weights belong in start\.bert"
    ):
        load_vit(method, str(tmp_path / "bert"))
    assert all(torch.equal(method.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_vit_computes_what_transformers_computes(tmp_path: Path, kind: str) -> None:
    model = vit(kind)
    model.save_pretrained(tmp_path)
    method = tiny("rasa")
    before = state(method)
    report = load_vit(method, str(tmp_path))
    compare_image(method, model)
    assert report.missing == [] and report.resized == []
    heads = ["pooler.dense.bias", "pooler.dense.weight"] if kind == "ViTModel" else ["classifier.bias", "classifier.weight"]
    assert report.unplaced == heads and f"2 without a place: {heads[0]}" in report.text()
    text = [name for name in before if "text_encoder" in name]
    assert all(torch.equal(method.state_dict()[name], before[name]) for name in text)


def test_vit_under_the_names_of_a_module_of_today(tmp_path: Path) -> None:
    model = vit()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    method = tiny("rasa")
    assert load_vit(method, str(tmp_path)).missing == []
    compare_image(method, model)


def timm_names(hugging_face: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys of timm and of the DeiT files that ALBEF starts from."""
    out = {"head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}
    simple = {"embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed"}
    for key, tensor in hugging_face.items():
        *start, module, part = key.split(".")
        if key in simple:
            out[simple[key]] = tensor
        elif key.startswith("embeddings.patch"):
            out[f"patch_embed.proj.{part}"] = tensor
        elif key.startswith("layernorm."):
            out[f"norm.{part}"] = tensor
        elif key.startswith("encoder.layer."):
            block, inner = start[2], ".".join([*start[3:], module])
            names = {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
            names |= {"layernorm_before": "norm1", "layernorm_after": "norm2"}
            if inner == "attention.attention.query":
                parts = [hugging_face[key.replace("query", name)] for name in ("query", "key", "value")]
                out[f"blocks.{block}.attn.qkv.{part}"] = torch.cat(parts)
            elif inner in names:
                out[f"blocks.{block}.{names[inner]}.{part}"] = tensor
    return out


@pytest.mark.parametrize("wrapped", [True, False])
def test_vit_in_timm_naming(tmp_path: Path, wrapped: bool) -> None:
    model = vit()
    model.save_pretrained(tmp_path / "hf")
    timm = timm_names(load_file(tmp_path / "hf" / "model.safetensors"))
    torch.save({"model": timm} if wrapped else timm, tmp_path / "deit.pth")
    method = tiny("rasa")
    report = load_vit(method, str(tmp_path / "deit.pth"))
    assert report.missing == [] and report.unplaced == ["head.bias", "head.weight"]
    compare_image(method, model)


def test_a_distillation_token_and_its_position_are_left_out(tmp_path: Path) -> None:
    vit("DeiTModel").save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    method = tiny("rasa")
    report = load_vit(method, str(tmp_path))
    assert "embeddings.distillation_token" in report.unplaced and report.missing == []
    positions = saved["embeddings.position_embeddings"]
    assert torch.equal(method.online.image_encoder.positions, positions[:, [0, *range(2, 18)]])


@pytest.mark.parametrize("image_px", [(48, 48), (48, 16)])
def test_vit_positions_are_interpolated_as_transformers_does(tmp_path: Path, image_px: tuple[int, int]) -> None:
    model = vit()
    model.save_pretrained(tmp_path)
    method = tiny("rasa", image_px=image_px)
    report = load_vit(method, str(tmp_path))
    assert report.resized == ["online.image_encoder.positions"]
    compare_image(method, model, image_px=image_px, interpolate_pos_encoding=True)


def test_the_grid_of_a_vit_that_is_not_square_comes_from_its_config(tmp_path: Path) -> None:
    model = vit(image_size=[64, 16])
    model.save_pretrained(tmp_path)
    method = tiny("rasa", image_px=(64, 16))
    assert load_vit(method, str(tmp_path)).resized == []
    compare_image(method, model, image_px=(64, 16))
    assert load_vit(tiny("rasa", image_px=(32, 32)), str(tmp_path)).resized != []


def test_another_vit_is_refused(tmp_path: Path) -> None:
    vit(patch_size=16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"patch_embed\.weight is \(24, 3, 16, 16\), expected \(24, 3, 8, 8\)"):
        load_vit(tiny("rasa"), str(tmp_path))


def test_weights_split_over_files(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    method = tiny("rasa")
    load_bert(method, str(tmp_path))
    compare_text(method, model)
    (tmp_path / files[0]).unlink()
    with pytest.raises(ValueError, match=f"{files[0]} is missing, expected it as model.safetensors.index.json lists it"):
        load_bert(tiny("rasa"), str(tmp_path))


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not a JSON file .*get the folder again"):
        load_vit(tiny("rasa"), str(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no weights there, expected model\.safetensors or pytorch_model\.bin"):
        load_vit(tiny("rasa"), str(tmp_path))


@pytest.mark.parametrize("name", ["/absent/folder", "./absent", "~/absent/x/y.bin", "a/b/c"])
def test_a_path_that_is_not_there_is_refused_without_asking_a_network(name: str) -> None:
    with pytest.raises(
        ValueError, match="found no such file or folder, expected weights on this disk or a Hugging Face name"
    ):
        load_bert(tiny("rasa"), name)


def test_a_name_that_is_not_cached_is_refused_where_there_is_no_network(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"nobody/no-such-bert: .*not in the Hugging Face cache, and huggingface\.co cannot"
    ):
        load_bert(tiny("rasa"), "nobody/no-such-bert")


def test_a_cached_name_needs_no_network(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0" * 40
    repository = tmp_path / "models--some--tiny-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    model = bert()
    model.save_pretrained(repository / "snapshots" / commit)
    method = tiny("rasa")
    load_bert(method, "some/tiny-bert")
    compare_text(method, model)

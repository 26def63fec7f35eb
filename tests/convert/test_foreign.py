from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from recorded_step import Recorded, build
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_methods import state, tiny

from tbps.command import main
from tbps.convert.foreign import convert
from tbps.convert.official import from_official
from tbps.convert.weights import load_weights


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("kind", ["albef", "rasa", "mars"])
def test_an_official_checkpoint_becomes_a_file_that_a_method_loads(tmp_path: Path, kind: str) -> None:
    official = Recorded(kind).part("weights.")
    source, out = tmp_path / f"{kind}.pth", tmp_path / "new folder" / "ours.safetensors"
    torch.save({"model": official, "optimizer": {}, "lr_scheduler": {}, "config": {"lr": "1e-5"}, "epoch": 3}, source)
    report = convert(source, out)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    expected = {"format": "tbps-weights-1", "source": source.name, "sha256": digest, "kind": kind, "image_grid": "4x4"}
    assert metadata(out) == expected
    assert f"{kind} weights, {len(official)} tensors, sha256 {digest}" in report
    assert "entries that are not weights, left out:\n  optimizer\n  lr_scheduler\n  config\n  epoch" in report
    duplicates = from_official(official).duplicates
    assert f"{len(duplicates)} stored twice or computed, left out:" in report
    assert all(f"\n  {key}" in report for key in duplicates)
    assert "momentum" not in report and "without a place" not in report
    method, direct = build(Recorded(kind)), build(Recorded(kind))
    for tensor in method.state_dict().values():
        tensor.zero_()
    loaded = load_weights(method, out, keep_queue=True)
    assert loaded.missing == loaded.copied == loaded.unplaced == loaded.resized == [] and loaded.queue == ""
    assert all(torch.equal(tensor, direct.state_dict()[name]) for name, tensor in method.state_dict().items())
    assert list(out.parent.iterdir()) == [out]  # nothing half-written is left


def test_pretrained_albef_without_identities_and_a_file_without_momentum(tmp_path: Path) -> None:
    official = {
        key: value for key, value in Recorded("rasa").part("weights.").items() if "prd_" not in key and "mrtd_" not in key
    }
    del official["idx_queue"]
    torch.save({"model": official}, tmp_path / "ALBEF.pth")
    report = convert(tmp_path / "ALBEF.pth", tmp_path / "a.safetensors")
    assert ": albef weights" in report
    assert "queue left out, its features have no identities (idx_queue): image_queue, text_queue, queue_ptr" in report
    assert not any(name.startswith("queue.") for name in load_file(tmp_path / "a.safetensors"))
    torch.save({key: value for key, value in official.items() if "_m." not in key}, tmp_path / "online.pth")
    report = convert(tmp_path / "online.pth", tmp_path / "b.safetensors")
    assert "no momentum copies in the file: they will start equal to the online encoder" in report
    method = build(Recorded("rasa"))
    copied = load_weights(method, tmp_path / "b.safetensors").copied
    assert len(copied) == sum(name.startswith("momentum_encoder.") for name in method.state_dict())


def test_every_key_without_a_place_is_in_the_report(tmp_path: Path) -> None:
    strange = [f"zebra.{index}.weight" for index in range(40)]
    torch.save(Recorded("mars").part("weights.") | {key: torch.zeros(1) for key in strange}, tmp_path / "a.pth")
    report = convert(tmp_path / "a.pth", tmp_path / "a.safetensors", kind="mars")
    assert "40 without a place, left out:" in report and all(f"\n  {key}" in report for key in strange)


def test_a_file_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pth", tmp_path / "out.safetensors"
    torch.save(Recorded("rasa").part("weights."), source)
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"out\.safetensors exists and is left as it is; .*--force"):
        convert(source, out)
    assert out.read_text() == "mine"
    convert(source, out, force=True)
    assert "temperature" in load_file(out)
    with pytest.raises(ValueError, match="is a folder, expected the name of a file to write"):
        convert(source, tmp_path, force=True)


def test_a_failed_write_leaves_nothing_and_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "a.pth", tmp_path / "out" / "a.safetensors"
    torch.save(Recorded("rasa").part("weights."), source)
    convert(source, out)
    before = out.read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("tbps.convert.writing.fsync_path", full)
    with pytest.raises(OSError, match="No space left"):
        convert(source, out, force=True)
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_another_kind_than_told_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    torch.save(Recorded("rasa").part("weights."), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: its keys are those of rasa weights, expected mars; say rasa or auto"):
        convert(tmp_path / "a.pth", out, kind="mars")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "b.pth")
    with pytest.raises(
        ValueError, match=r"b\.pth: its keys \(fc\.weight, \.\.\.\) are of no known kind, expected albef, rasa, mars"
    ):
        convert(tmp_path / "b.pth", out)
    torch.save(state(tiny()), tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c\.pth: is under our names already; use it as start\.weights"):
        convert(tmp_path / "c.pth", out)
    with pytest.raises(ValueError, match="found nothing, expected a file of weights or a folder with one"):
        convert(tmp_path / "absent", out)
    assert not out.exists()


def test_bert_and_vit_folders(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "intermediate_size": 64}
    bert = transformers.BertConfig(hidden_size=16, num_attention_heads=2, vocab_size=30, max_position_embeddings=12, **sizes)
    transformers.BertForPreTraining(bert).save_pretrained(tmp_path / "bert")
    report = convert(tmp_path / "bert", tmp_path / "bert.safetensors")
    assert ": bert weights" in report and "\n  cls.seq_relationship.bias" in report and "momentum" not in report
    assert metadata(tmp_path / "bert.safetensors")["kind"] == "bert"
    vit = transformers.ViTConfig(hidden_size=16, num_attention_heads=2, image_size=[64, 16], patch_size=8, **sizes)
    transformers.ViTModel(vit).save_pretrained(tmp_path / "vit")
    report = convert(tmp_path / "vit", tmp_path / "vit.safetensors", kind="vit")
    assert ": vit weights" in report and "2 without a place, left out:\n  pooler.dense.bias" in report
    assert metadata(tmp_path / "vit.safetensors")["image_grid"] == "8x2"
    method = tiny("rasa", image_px=(64, 16), vit={"width": 16, "heads": 2})
    assert load_weights(method, tmp_path / "vit.safetensors").resized == []


def without(*parts: str) -> dict[str, torch.Tensor]:
    return {
        key: tensor for key, tensor in Recorded("albef").part("weights.").items() if not any(part in key for part in parts)
    }


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("visual_encoder.cls_token", "online.image_encoder.cls_token"),
        ("visual_encoder.blocks.1.mlp.fc2.", "online.image_encoder.blocks.1.fc2.weight"),
        ("text_encoder.encoder.layer.0.attention.self.key", "online.text_encoder.layers.0.self_attention.qkv.weight"),
        ("text_encoder.encoder.layer.3.crossattention", "online.text_encoder.layers.3.cross_attention.query.weight"),
        ("vision_proj.", "online.image_projection.weight"),
        ("itm_head.", "itm_head.weight"),
    ],
)
def test_a_file_without_an_essential_tensor_is_refused_by_name(tmp_path: Path, part: str, missing: str) -> None:
    state = without(part)
    assert len(state) < len(without())
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: taken for albef weights, and \d+ essential tensors are missing") as error:
        convert(tmp_path / "a.pth", tmp_path / "out.safetensors")
    assert missing in str(error.value) and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    state = {key: tensor.clone() for key, tensor in without().items()}
    state["visual_encoder.norm.bias"][3] = value
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"1 tensors hold NaN or infinite numbers \(online\.image_encoder\.norm\.bias\)"):
        convert(tmp_path / "a.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    save_file(from_official(state).tensors, tmp_path / "made earlier.safetensors")
    method = build(Recorded("albef"))
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with pytest.raises(ValueError, match=r"made earlier\.safetensors: 1 tensors hold NaN"):
        load_weights(method, tmp_path / "made earlier.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_integers_in_the_place_of_weights_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({**without(), "vision_proj.bias": torch.ones(8, dtype=torch.int8)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"online\.image_projection\.bias is of type torch\.int8, expected floating-point"):
        convert(tmp_path / "a.pth", tmp_path / "out.safetensors")


def test_weights_of_images_that_are_not_square_need_their_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 patches are taken for 4 x 4 unless told otherwise; 8 are no square."""
    source = tmp_path / "a.pth"
    state = {
        key: tensor[:, :9] if key.endswith("pos_embed") and tensor.dim() == 3 else tensor
        for key, tensor in without().items()
    }
    torch.save(state, source)
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(source), str(out)]) == 2
    assert (
        "its position table has 8 patches, which no square has; say rows and columns with --grid" in capsys.readouterr().err
    )
    assert main(["convert", str(source), str(out), "--grid", "4", "4"]) == 2
    assert "a grid of 4 x 4 has 16 patches, and its position table 8" in capsys.readouterr().err
    assert not out.exists()
    assert main(["convert", str(source), str(out), "--grid", "4", "2"]) == 0
    assert metadata(out)["image_grid"] == "4x2"
    method = build(Recorded("albef"))
    assert sorted(load_weights(method, out).resized) == [
        "momentum_encoder.image_encoder.positions",
        "online.image_encoder.positions",
    ]
    assert torch.equal(method.online.image_encoder.positions[:, 0], state["visual_encoder.pos_embed"][:, 0])

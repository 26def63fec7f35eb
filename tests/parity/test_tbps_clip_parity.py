"""CLIP's losses against TBPS-CLIP's, with its weights, through the loader that users call and the method that trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import recording
from safetensors.torch import save_file
from torch import Tensor

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.config.methods.clip import Clip, ClipWeights
from tbps.convert.clip import load_clip
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return recording("tbps_clip")


def loaded(recorded: Any, folder: Path, **changes: Any) -> Any:
    """The method with the recorded weights; TBPS-CLIP's text tower lies under `encode_text.`."""
    about, tensors = recorded
    config = about["config"]
    image = ImageTowerSizes(
        width=config["vision_width"],
        layers=config["vision_layers"],
        heads=config["vision_width"] // 64,
        intermediate=4 * config["vision_width"],
        patch_px=config["patch"],
    )
    text = TextTowerSizes(
        width=config["text_width"],
        layers=config["text_layers"],
        heads=config["text_width"] // 64,
        intermediate=4 * config["text_width"],
        vocabulary_size=config["vocab_size"],
        max_positions=config["context_length"],
    )
    settings = Clip(towers=ClipSizes(image=image, text=text, features=config["embed_dim"]), **changes)
    method = build_method(settings, image_px=tuple(config["img_size"]))
    path = folder / "tbps_clip.safetensors"
    save_file({name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}, path)
    report = load_clip(method, str(path))
    assert report.missing == []
    own = ("classifier.", "cross_attn.", "cross_modal_transformer.", "ln_p", "mlm_head.", "simclr_mlp.")
    assert report.unplaced and all(name.startswith(own) for name in report.unplaced)
    return method


def batch(recorded: Any, *, epoch: float) -> Batch:
    """The recorded batch; with its masks, which all of its losses see."""
    _, tensors = recorded
    ids = tensors["draws.text_ids"]
    lengths = tuple((ids.argmax(1) + 1).tolist())
    captions = Captions(token_ids_BL=ids, lengths=lengths, chunk_id_BL=torch.zeros_like(ids))
    return Batch(
        image_BCHW=tensors["inputs.image"],
        own=captions,
        paired=captions,
        replaced_B=torch.zeros(len(ids), dtype=torch.int64),
        identity_B=tensors["inputs.id"],
        group_pairs=len(ids),
        epoch=epoch,
    )


def losses(method: Any, batch: Batch) -> dict[str, Tensor]:
    found, _ = method(batch, Draws(numbers={}))
    return dict(found)


def test_features_equal_the_recorded_ones(recorded: Any, tmp_path: Path) -> None:
    _, tensors = recorded
    method, one = loaded(recorded, tmp_path), batch(recorded, epoch=0)
    assert torch.allclose(method.embed_images(one.image_BCHW).feature_IE, tensors["expected.image_feat_norm"], atol=2e-5)
    assert torch.allclose(method.embed_captions(one.own).feature_QE, tensors["expected.text_feat_norm"], atol=2e-5)


def test_losses_equal_the_recorded_ones(recorded: Any, tmp_path: Path) -> None:
    about, tensors = recorded
    config = about["config"]
    ritc, hard, soft = (
        float(tensors[f"expected.{name}"]) for name in ("loss.ritc", "extra.nitc_first_view_hard", "extra.nitc_first_view")
    )
    weights = ClipWeights(itc=config["nitc_ratio"], ritc=config["ritc_ratio"])
    method = loaded(recorded, tmp_path, weights=weights, positives="identity", soft_targets=config["alpha"])
    for epoch, expected in ((0.0, hard), (1.0, soft), (7.5, soft), (0.5, (hard + soft) / 2)):
        found = losses(method, batch(recorded, epoch=epoch))
        assert found.keys() == {"itc", "ritc"}
        assert found["itc"].item() == pytest.approx(expected, rel=1e-5)
        assert weights.ritc * found["ritc"].item() == pytest.approx(ritc, rel=1e-4)


def test_pairs_alone_are_another_loss(recorded: Any, tmp_path: Path) -> None:
    _, tensors = recorded
    found = losses(loaded(recorded, tmp_path), replace(batch(recorded, epoch=1)))
    assert found.keys() == {"itc"}
    logits = tensors["expected.sim_logits_i2t"]
    own = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert found["itc"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert abs(expected.item() - float(tensors["expected.extra.nitc_first_view_hard"])) > 1e-3

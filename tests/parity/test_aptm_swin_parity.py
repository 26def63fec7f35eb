"""APTM's Swin: tokens of recorded images through the converter, and tables of position biases of another window."""

from __future__ import annotations

import pytest
import torch
from recordings import recording

from tbps.convert.swin import from_swin, resize_position_bias
from tbps.nn.swin import SwinTransformer

OUTPUT = 2e-5
PREFIX, OURS = "weights.vision_encoder.", "online.image_encoder."


@pytest.mark.parametrize("name", ["aptm_pretrain", "aptm_finetune"])
@torch.no_grad()
def test_tokens_of_images(name: str) -> None:
    about, tensors = recording(name)
    given = about["config"]
    swin = SwinTransformer(
        image_px=(given["h"], given["w"]),
        patch_px=4,
        width=given["swin_embed_dim"],
        depths=given["depths"],
        heads=given["num_heads"],
        window=given["window_size"],
        drop_path=0.1,
    ).eval()
    found = [
        {"resolution": list(each.grid), "window": each.window, "dim": each.norm1.weight.numel(), "heads": each.heads}
        | {"shifts": [block.shift for block in stage.blocks]}
        for stage in swin.stages
        for each in stage.blocks[:1]
    ]
    assert found == about["derived"]["swin_stages"]
    weights = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    converted = from_swin(weights)
    assert converted.unplaced == []
    swin.load_state_dict({name.removeprefix(OURS): tensor for name, tensor in converted.tensors.items()})
    expected = tensors["expected.image_embeds"]
    error = (swin(tensors["inputs.image"]) - expected).abs().max().item()
    assert error <= OUTPUT * max(1.0, expected.abs().max().item())


def test_tables_of_position_biases_are_resized_as_the_official_code_does() -> None:
    about, tensors = recording("aptm_swin_relpos")
    for number, case in enumerate(about["cases"]):
        found = resize_position_bias(tensors[f"inputs.table_{number}"], places=case["dst_side"] ** 2)
        expected = tensors[f"expected.table_{number}"]
        assert found.shape == expected.shape == (case["dst_side"] ** 2, case["heads"])
        assert torch.allclose(found, expected, rtol=0, atol=1e-6), f"{case['src_side']} to {case['dst_side']}"

"""Adapters on the encoders: what is frozen, what learns, and that merged weights compute the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_encoders import tiny_bert, tiny_vit
from torch import Tensor, nn

from tbps.config.lora import TARGETS
from tbps.nn.bert import Bert
from tbps.nn.clip_image import ClipImageTower
from tbps.nn.lora import LAYER_OF, SplitLinear, add_adapters, digest_of, frozen_to, merge_adapters
from tbps.nn.packing import lay_out
from tbps.nn.vit import VisionTransformer


def _images(vit: nn.Module) -> Tensor:
    return vit(torch.randn(3, 3, 16, 8, generator=torch.Generator().manual_seed(1)))


def _cross(text: Bert) -> Tensor:
    """Captions of 3 and 5 tokens, each with its image, through every layer."""
    packing = lay_out(np.array([3, 5]), image=np.array([0, 1]), num_images=2).to(torch.device("cpu"))
    ids_N = torch.tensor([1, 4, 5, 1, 7, 8, 9, 6])
    image_IPD = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(2))
    hidden_ND = text.encode_text(text.embed(ids_N, packing), packing)
    return text.encode_cross(hidden_ND, packing, image_IPD)


def _adapters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _move(module: nn.Module) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(_adapters(module).values()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))


def test_a_split_layer_is_the_fused_one() -> None:
    torch.manual_seed(0)
    fused, x = nn.Linear(5, 12), torch.randn(7, 5)
    split = SplitLinear(fused, ("query", "key", "value"))
    assert [name for name, _ in split.named_children()] == ["query", "key", "value"]
    torch.testing.assert_close(split(x), fused(x))
    again = split.fused()
    assert torch.equal(again.weight, fused.weight) and torch.equal(again.bias, fused.bias)


def test_training_starts_at_the_base_and_merged_weights_compute_what_adapters_did() -> None:
    vit, text = tiny_vit(), tiny_bert()
    image, cross = _images(vit), _cross(text)
    names = [list(encoder.state_dict()) for encoder in (vit, text)]
    add_adapters([vit, text], rank=4, alpha=8, targets=TARGETS)
    torch.testing.assert_close(_images(vit), image)
    torch.testing.assert_close(_cross(text), cross)
    _move(vit)
    _move(text)
    adapted = _images(vit), _cross(text)
    assert (adapted[0] - image).abs().max() > 0.1 and (adapted[1] - cross).abs().max() > 0.1
    merge_adapters(vit)
    merge_adapters(text)
    assert [list(encoder.state_dict()) for encoder in (vit, text)] == names
    torch.testing.assert_close(_images(vit), adapted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_cross(text), adapted[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_adapter_learns_and_nothing_else_moves(checkpointing: bool) -> None:
    vit, text = tiny_vit(), tiny_bert()
    add_adapters([vit, text], rank=2, alpha=4, targets=TARGETS)
    vit.checkpointing = text.checkpointing = checkpointing
    both = nn.ModuleList([vit, text])
    frozen = {name: p.clone() for name, p in both.named_parameters() if not p.requires_grad}
    adapters = _adapters(both)
    # 2 blocks of 6 layers; 4 layers of 6 and, in two of them, query, key, value and out of cross-attention; A and B of each
    assert len(adapters) == 2 * (2 * 6 + 4 * 6 + 2 * 4) and all("lora_" in name for name in adapters)
    optimiser = torch.optim.AdamW(adapters.values(), lr=0.1)
    for _ in range(2):  # B is 0 at first, and A's gradient with it
        optimiser.zero_grad()
        (_images(vit).pow(2).mean() + _cross(text).pow(3).mean()).backward()
        optimiser.step()
    # A key's bias shifts all scores of a query alike; its weights do not.
    assert [name for name, p in adapters.items() if p.grad is None or not p.grad.norm() > 0] == []
    assert all(torch.equal(p, frozen[name]) for name, p in both.named_parameters() if name in frozen)
    assert all(p.grad is None for p in both.parameters() if not p.requires_grad)


def test_only_what_is_named_gets_an_adapter() -> None:
    vit = tiny_vit()
    add_adapters([vit], rank=2, alpha=4, targets=("q", "v"))
    assert {name.split(".lora_")[0] for name in _adapters(vit)} == {
        f"blocks.{block}.qkv.{part}" for block in (0, 1) for part in ("query", "value")
    }


def test_clips_towers_take_the_same_names() -> None:
    tower = ClipImageTower(
        grid=(4, 2), patch_px=4, stride_px=4, width=12, layers=2, heads=3, intermediate=24, features=6, quick_gelu=True
    )
    add_adapters([tower], rank=2, alpha=4, targets=TARGETS)
    assert len(_adapters(tower)) == 2 * 2 * 6


def test_a_target_that_is_not_there_is_refused() -> None:
    module = nn.ModuleDict({"fc1": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"lora.targets names 'q', and no encoder has such a layer; there are fc1$"):
        add_adapters([module], rank=2, alpha=4, targets=("fc1", "q"))


def test_every_target_of_the_settings_names_layers() -> None:
    assert tuple(LAYER_OF) == TARGETS


def test_frozen_weights_in_bfloat16_compute_under_autocast_and_halve_their_memory() -> None:
    vit: VisionTransformer = tiny_vit()
    whole = copy.deepcopy(vit)
    add_adapters([vit], rank=2, alpha=4, targets=("q",))
    frozen_to([vit], torch.bfloat16)
    kinds = {name: p.dtype for name, p in vit.named_parameters()}
    assert kinds["blocks.0.fc1.weight"] == kinds["blocks.0.qkv.query.base_layer.weight"] == torch.bfloat16
    assert kinds["blocks.0.norm1.weight"] == kinds["blocks.0.qkv.query.lora_A.default.weight"] == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _images(vit)
        torch.testing.assert_close(found.float(), _images(whole).float(), rtol=0.05, atol=0.1)


def test_a_digest_knows_names_shapes_types_and_values() -> None:
    a = {"x": torch.arange(4.0), "y": torch.zeros(2, 2)}
    changes = [
        {"z": a["x"], "y": a["y"]},
        {"x": a["x"].view(2, 2), "y": a["y"]},
        {"x": a["x"].bfloat16(), "y": a["y"]},
        {"x": a["x"] + 1, "y": a["y"]},
    ]
    assert digest_of(a) == digest_of(dict(reversed(a.items()))) and digest_of(a) not in [digest_of(b) for b in changes]

"""The momentum encoder: a copy without gradients that moves by the formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tbps.nn.momentum import advance, left_out, momentum_copy


def pair() -> tuple[nn.Module, nn.Module]:
    online = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    momentum_encoder = momentum_copy(online)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
    return momentum_encoder, online


def test_the_copy_is_equal_and_apart() -> None:
    online = nn.Linear(3, 4)
    momentum_encoder = momentum_copy(online)
    assert torch.equal(momentum_encoder.weight, online.weight)
    assert momentum_encoder.weight.data_ptr() != online.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in momentum_encoder.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())


def test_one_update_is_the_formula() -> None:
    momentum_encoder, online = pair()
    before = [parameter.clone() for parameter in momentum_encoder.parameters()]
    kept = [parameter.clone() for parameter in online.parameters()]
    advance(momentum_encoder, online, momentum=0.9)
    for old, new, follows, same in zip(before, momentum_encoder.parameters(), online.parameters(), kept, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * follows, atol=1e-6)
        assert torch.equal(follows, same)


def test_a_copy_without_parts_moves_by_name_and_a_copy_of_it_lacks_the_same() -> None:
    online = nn.ModuleDict(
        {"head": nn.Linear(2, 2), "layers": nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(12)])}
    )
    momentum_encoder = momentum_copy(online, without=["head", *(f"layers.{index}" for index in range(9, 12))])
    kept = [f"layers.{index}.0.{part}" for index in range(9) for part in ("weight", "bias")]
    assert list(momentum_encoder.state_dict()) == kept
    nn.init.constant_(online.layers[8][0].weight, 3.0)
    advance(momentum_encoder, online, momentum=0.0)
    assert all(torch.equal(online.state_dict()[name], tensor) for name, tensor in momentum_encoder.state_dict().items())
    assert sorted(left_out(online, momentum_encoder)) == ["head", "layers.10", "layers.11", "layers.9"]
    again = momentum_copy(online, without=left_out(online, momentum_encoder))
    assert again.state_dict().keys() == momentum_encoder.state_dict().keys()
    with pytest.raises(AssertionError, match="would get its number"):
        momentum_copy(online, without=["layers.4"])


def test_the_extremes() -> None:
    momentum_encoder, online = pair()
    before = [parameter.clone() for parameter in momentum_encoder.parameters()]
    advance(momentum_encoder, online, momentum=1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, momentum_encoder.parameters(), strict=True))
    advance(momentum_encoder, online, momentum=0.0)
    assert all(
        torch.equal(new, follows) for new, follows in zip(momentum_encoder.parameters(), online.parameters(), strict=True)
    )


def test_small_steps_are_not_lost_under_autocast() -> None:
    momentum_encoder, online = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(momentum_encoder.weight, 1.0)
    nn.init.constant_(online.weight, 1.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(100):
            advance(momentum_encoder, online, momentum=0.995)
    assert momentum_encoder.weight.dtype == torch.float32
    assert abs(momentum_encoder.weight.item() - (1.01 - 0.01 * 0.995**100)) < 1e-5

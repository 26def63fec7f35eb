from __future__ import annotations

import pytest
import torch
from small_method import SmallMethod

from tbps.config.optim import AdamW
from tbps.training.optimiser import load_state_tensors, make_optimiser, parameter_groups, state_tensors

OPTIM = AdamW(lr=0.1, head_lr=1.0, weight_decay=0.02)


def _stepped() -> tuple[SmallMethod, torch.optim.AdamW]:
    method = SmallMethod()
    optimiser = make_optimiser(method, OPTIM)
    for parameter in method.parameters():
        if parameter.requires_grad and parameter is not method.temperature:
            parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return method, optimiser


def test_groups_by_dimension_and_head() -> None:
    groups = parameter_groups(SmallMethod(), OPTIM)
    assert [(group["weight_decay"], group["base_lr"], group["names"]) for group in groups] == [
        (0.0, 0.1, ["online.image.bias", "online.text.bias"]),
        (0.02, 0.1, ["temperature", "online.image.weight", "online.words.weight", "online.text.weight"]),
        (0.0, 1.0, ["prd_head.bias"]),
        (0.02, 1.0, ["prd_head.weight"]),
    ]


def test_update_is_left_out_on_the_device_where_a_number_is_not_finite() -> None:
    method, optimiser = _stepped()
    before = {name: tensor.clone() for name, tensor in {**method.state_dict(), **state_tensors(optimiser)}.items()}
    optimiser.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimiser.step()
    after = {**method.state_dict(), **state_tensors(optimiser)}
    assert all(torch.equal(after[name], before[name]) for name in before)
    optimiser.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    optimiser.step()
    assert not torch.equal(method.online.image.weight, before["online.image.weight"])


def test_state_comes_back_and_a_parameter_without_gradient_has_none() -> None:
    _, optimiser = _stepped()
    tensors = state_tensors(optimiser)
    assert "exp_avg/online.text.weight" in tensors and "exp_avg/temperature" not in tensors
    method = SmallMethod()
    other = make_optimiser(method, OPTIM)
    load_state_tensors(other, tensors)
    restored = state_tensors(other)
    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[name], tensors[name]) for name in tensors)


def test_state_of_another_architecture_is_refused() -> None:
    _, optimiser = _stepped()
    tensors = state_tensors(optimiser)
    fresh = make_optimiser(SmallMethod(), OPTIM)
    with pytest.raises(ValueError, match=r"1 tensors are missing or unknown \(exp_avg/prd_head.bias\)"):
        load_state_tensors(fresh, {name: tensor for name, tensor in tensors.items() if name != "exp_avg/prd_head.bias"})
    with pytest.raises(ValueError, match=r"state of prd_head.bias has shape \(3,\), expected \(2,\)"):
        load_state_tensors(fresh, {**tensors, "exp_avg/prd_head.bias": torch.zeros(3)})

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from small_method import SmallMethod
from torch import nn

from tbps.config.optim import Optimiser, Rule
from tbps.training.optimiser import load_state_tensors, make_optimiser, parameter_groups, rate_names, state_tensors

OPTIM = Optimiser(lr=0.1, rules=(Rule(pattern="prd_head", factor=10.0),), weight_decay=0.02)


def _stepped() -> tuple[SmallMethod, torch.optim.Adam]:
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


IRRA = Optimiser(
    kind="adam",
    lr=1e-5,
    weight_decay=4e-5,
    eps=1e-3,
    decay_vectors=True,
    rules=(
        Rule(pattern="cross", factor=5.0),
        Rule(pattern="bias", factor=2.0, decay=False),
        Rule(pattern="classifier", factor=5.0),
        Rule(pattern="mlm_head", factor=5.0),
    ),
)


class IrraNames(nn.Module):
    """A parameter of each kind that IRRA's rules tell apart."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("base_model", "cross_attn", "classifier", "mlm_head"):
            self.add_module(name, nn.ModuleDict({"dense": nn.Linear(2, 2), "ln": nn.LayerNorm(2)}))
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_later_rules_win_property_by_property() -> None:
    """Against the chain of conditions of anosorae/IRRA solver/build.py."""
    method = IrraNames()
    found = {
        name: (group["base_lr"], group["weight_decay"])
        for group in parameter_groups(method, IRRA)
        for name in group["names"]
    }
    for name, _ in method.named_parameters():
        lr, decay = 1e-5, 4e-5
        if "cross" in name:
            lr = 1e-5 * 5
        if "bias" in name:
            lr, decay = 1e-5 * 2, 0.0
        if "classifier" in name or "mlm_head" in name:
            lr = 1e-5 * 5
        assert found.pop(name) == (lr, decay), name
    assert not found
    assert len(parameter_groups(method, IRRA)) == 4, "one for each rate, with and without decay, that there is"


def test_rates_are_named_by_the_rules_they_come_from() -> None:
    names = [name for name, _ in IrraNames().named_parameters()]
    assert rate_names(IRRA, names) == {1.0: "lr", 5.0: "lr/cross+classifier+mlm_head", 2.0: "lr/bias"}
    assert rate_names(IRRA, ["classifier.bias"]) == {1.0: "lr", 5.0: "lr/classifier"}, "a rule that is overruled names none"
    assert rate_names(Optimiser(lr=1.0, rules=(Rule(pattern="a", factor=1.0),)), ["a"]) == {1.0: "lr"}


@pytest.mark.parametrize(
    ("pattern", "name", "is_meant"),
    [
        ("cross", "layers.3.cross_attention.query.weight", True),
        ("norm1.bias", "block.norm1.bias", True),
        ("norm1.bias", "block.norm2.bias", False),
        ("norm?.bias", "block.norm1.bias", False),  # a shell pattern is of the whole name
        ("*norm?.bias", "block.norm1.bias", True),
        ("*.[qk].weight", "block.q.weight", True),
        ("*.[qk].weight", "block.v.weight", False),
        ("Cross", "cross", False),
        ("*", "anything", True),
    ],
)
def test_patterns(pattern: str, name: str, is_meant: bool) -> None:
    assert Rule(pattern=pattern, factor=2.0).matches(name) == is_meant


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("adam", 2 - 0.1 * (3 + 0.5 * 2) / (3 + 0.5 * 2 + 1)), ("adamw", 2 - 0.1 * 0.5 * 2 - 0.1 * 3 / (3 + 1))],
)
def test_adam_decays_through_its_averages_and_adamw_beside_them(kind: Literal["adam", "adamw"], expected: float) -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(2.0)
    optimiser = make_optimiser(layer, Optimiser(kind=kind, lr=0.1, weight_decay=0.5, eps=1.0, betas=(0.0, 0.0)))
    layer.weight.grad = torch.full((1, 1), 3.0)
    optimiser.step()
    assert layer.weight.item() == pytest.approx(expected, rel=1e-6)
    assert all(group["fused"] for group in optimiser.param_groups)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            Rule(pattern="prd_haed", factor=2.0),
            "'prd_haed', which is in no parameter's name (perhaps prd_head): correct it, leave the rule out, or set",
        ),
        (
            Rule(pattern="zzz", decay=True),
            "'zzz', which is in no parameter's name (names begin with momentum_encoder, onl",
        ),
    ],
)
def test_a_rule_that_matches_nothing_is_told(rule: Rule, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        make_optimiser(SmallMethod(), replace(OPTIM, rules=(*OPTIM.rules, rule)))
    assert str(raised.value).startswith("optim.rules.1.pattern is ") and sentence in str(raised.value)


def test_an_optional_rule_may_match_nothing_and_one_may_mean_frozen_parameters(caplog: pytest.LogCaptureFixture) -> None:
    rules = (Rule(pattern="mrtd_head", factor=2.0, optional=True), Rule(pattern="momentum_encoder", factor=2.0))
    with caplog.at_level("INFO"):
        groups = parameter_groups(SmallMethod(), Optimiser(lr=0.1, rules=rules))
    assert {group["base_lr"] for group in groups} == {0.1}
    assert (
        "optim.rules.0.pattern is 'mrtd_head', which is in no parameter's name: that rule has no effect here" in caplog.text
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pattern": "", "factor": 2.0}, 'optim.rules: a pattern is "", expected a part of parameters\' names'),
        ({"pattern": "cross"}, "optim.rules: the rule for 'cross' says neither factor nor decay; give it one of them"),
        ({"pattern": "cross", "factor": 0.0}, "optim.rules.factor is 0.0, expected more than 0"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        Rule(**settings)
    assert str(raised.value).startswith(sentence)

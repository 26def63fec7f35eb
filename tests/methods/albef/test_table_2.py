"""Every row of MARS's Table 2 is a configuration that trains, and switching a part off leaves nothing of it behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_methods import ALBEF, BERT, FULL_BERT, IMAGE_PX, MARS, RASA, build, gradients, make_step, total_loss

from tbps.config.methods.albef import AlbefWeights
from tbps.config.methods.mars import Mars, MarsWeights
from tbps.config.methods.rasa import Rasa, RasaWeights


def mars_row(*, mae: bool, attribute: bool, full: bool, **changes: Any) -> Mars:
    weights = MarsWeights(mae=float(mae), attribute=2.0 * attribute)
    return replace(MARS, weights=weights, bert=FULL_BERT if full else BERT, **changes)


# Row -> configuration, words of a caption.
TABLE_2: dict[str, tuple[Rasa | Mars, int]] = {
    "Baseline (RaSa)": (RASA, 50),
    "Baseline with 70 words": (RASA, 70),
    "A1": (mars_row(mae=True, attribute=False, full=False), 70),
    "A2": (mars_row(mae=False, attribute=True, full=False), 70),
    "A3": (mars_row(mae=False, attribute=False, full=True), 70),
    "A4": (mars_row(mae=True, attribute=True, full=False), 70),
    "A5": (mars_row(mae=True, attribute=False, full=True), 70),
    "A6": (mars_row(mae=False, attribute=True, full=True), 70),
    "Ours w/o shared head": (mars_row(mae=True, attribute=True, full=True, attribute_head="own"), 70),
    "Ours with AL rebalanced": (mars_row(mae=True, attribute=True, full=True, attribute_weighting="frequency"), 70),
    "MARS (Ours)": (mars_row(mae=True, attribute=True, full=True), 70),
}


@pytest.mark.parametrize(("config", "words"), TABLE_2.values(), ids=TABLE_2)
def test_a_row_trains_every_parameter(config: Rasa | Mars, words: int) -> None:
    method = build(config)
    batch, draws = make_step(config, longest=words)
    if isinstance(config, Mars) and config.attribute_weighting == "frequency":
        batch.paired.chunk_weight_BC = torch.rand(batch.num_pairs, 3)
    losses, _ = method(batch, draws)
    expected = {"cl", "pitm", "mlm", "prd", "mrtd"}
    if isinstance(config, Mars):
        expected |= {name for name in ("mae", "attribute") if getattr(config.weights, name)}
    assert set(losses) == expected
    assert set(losses) <= set(method.weights)
    total_loss(method, losses).backward()
    for name, gradient in gradients(method).items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, f"{name} receives no gradient"


OFF = {"pitm": 0.0, "prd": 0.0, "mlm": 0.0, "mrtd": 0.0}
PARTIAL: dict[str, tuple[Any, set[str]]] = {
    "no words": (replace(MARS, weights=MarsWeights(mlm=0, mrtd=0)), {"cl", "pitm", "prd", "mae", "attribute"}),
    "contrast and MAE": (replace(MARS, weights=MarsWeights(attribute=0, **OFF)), {"cl", "mae"}),
    "contrast": (replace(RASA, weights=RasaWeights(**OFF)), {"cl"}),
    "ALBEF's contrast": (replace(ALBEF, weights=AlbefWeights(itm=0)), {"itc"}),
}


@pytest.mark.parametrize(("config", "names"), PARTIAL.values(), ids=PARTIAL)
def test_losses_of_weight_0_take_their_passes_with_them(config: Any, names: set[str]) -> None:
    method = build(config)
    batch, draws = make_step(config)
    losses, _ = method(batch, draws)
    assert set(losses) == names
    total_loss(method, losses).backward()
    # Whatever still asks for a gradient gets one: data-parallel training would wait for it for ever.
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def parameter_names(config: Rasa | Mars) -> set[str]:
    return set(build(config).state_dict())


def test_without_mae_there_is_no_decoder() -> None:
    without, with_mae = (mars_row(mae=mae, attribute=True, full=True) for mae in (False, True))
    extra = parameter_names(with_mae) - parameter_names(without)
    assert extra and all(name.startswith("mae_decoder.") for name in extra)
    assert "mae" not in [draw.name for draw in without.needs(IMAGE_PX).draws]
    assert {draw.name: draw.numbers for draw in with_mae.needs(IMAGE_PX).draws}["mae"] == 8


def test_an_own_attribute_head_is_there_only_where_it_is_used() -> None:
    def extra(*, attribute: bool) -> set[str]:
        own, shared = (
            parameter_names(mars_row(mae=True, attribute=attribute, full=True, attribute_head=head))
            for head in ("own", "shared")
        )
        return own - shared

    assert extra(attribute=True) == {"attribute_head.weight", "attribute_head.bias"}
    assert extra(attribute=False) == set()


@pytest.mark.parametrize("head", ["own", "shared"])
def test_the_attribute_loss_is_judged_by_its_head(head: str) -> None:
    method = build(mars_row(mae=False, attribute=True, full=True, attribute_head=head))
    batch, draws = make_step(mars_row(mae=False, attribute=True, full=True, attribute_head=head))
    method(batch, draws)[0]["attribute"].backward()
    assert (method.itm_head.weight.grad is None) == (head == "own")
    if head == "own":
        assert method.attribute_head.weight.grad.abs().max() > 0


def test_mars_without_its_parts_is_rasa() -> None:
    rasa, mars = build(RASA), build(mars_row(mae=False, attribute=False, full=False))
    mars.load_state_dict(rasa.state_dict())
    batch, draws = make_step(RASA)
    (first, _), (second, _) = rasa(batch, draws), mars(batch, draws)
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_chunk_weights_scale_the_attribute_loss_alone() -> None:
    method = build(MARS)
    batch, draws = make_step(MARS)
    outcomes = []
    for weight in (None, torch.ones(8, 3), torch.full((8, 3), 0.25), torch.zeros(8, 3)):
        batch.paired.chunk_weight_BC = weight
        outcomes.append(method(batch, draws)[0])
    uniform, ones, quarter, zero = (losses["attribute"].item() for losses in outcomes)
    assert uniform > 0.1
    assert ones == pytest.approx(uniform)
    assert quarter == pytest.approx(uniform / 4)
    assert zero == 0
    for losses in outcomes:
        assert all(torch.equal(losses[name], outcomes[0][name]) for name in losses if name != "attribute")

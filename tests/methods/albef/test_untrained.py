"""What no loss trains is known by name, so that it is never random where something reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from tiny_methods import AGA, ALBEF, CONFIGS, LAIP, MARS, RASA, build, make_step, total_loss

from tbps.config.start import Start
from tbps.runs.run_folder import RunFolder
from tbps.training.start import start

WORDS = {f"online.word_head.{name}" for name in ("bias", "dense.weight", "dense.bias", "norm.weight", "norm.bias")}
MATCHING = {"itm_head.weight", "itm_head.bias"}
UNREAD = ("prd_head.", "mrtd_head.")
"""Heads that nothing but their own loss reads. (The temperature starts at its configured value: it is never random.)"""
CASES = [
    (name, dropped)
    for name, config in CONFIGS.items()
    for dropped in (None, *(field for field in config.weights.__slots__ if (name, field) != ("laip", "itm")))
]


def without(config: Any, *losses: str) -> Any:
    return replace(config, weights=replace(config.weights, **dict.fromkeys(losses, 0.0)))


@pytest.mark.parametrize(("name", "dropped"), CASES)
def test_every_parameter_gets_a_gradient_or_is_named(name: str, dropped: str | None) -> None:
    method = build(without(CONFIGS[name], dropped) if dropped else CONFIGS[name])
    batch, draws = make_step(without(CONFIGS[name], dropped) if dropped else CONFIGS[name])
    total_loss(method, method(batch, draws)[0]).backward()
    still = {
        name
        for name, parameter in method.named_parameters()
        if not name.startswith(("momentum_encoder.", "temperature", *UNREAD))
        and (parameter.grad is None or not parameter.grad.any())
    }
    assert still == set(method.untrained(reranks=True))


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ALBEF, set()),
        (replace(ALBEF, keep_word_head=True), WORDS),
        (LAIP, set()),
        (without(LAIP, "mpm"), WORDS),  # Table IV, row 5
        (replace(without(LAIP, "triplet", "mpm"), attention="backward"), WORDS),  # row 4
        (replace(without(LAIP, "triplet", "mpm"), attention="forward"), set()),  # row 3
        (replace(LAIP, weights=replace(LAIP.weights, mpm=0, mlm=1)), set()),  # Table V
        (without(RASA, "mlm"), WORDS),  # the momentum encoder's word head draws m-RTD's words
        (without(AGA, "pitm"), MATCHING),
        (
            without(RASA, "cl"),
            {f"online.{side}_projection.{part}" for side in ("image", "text") for part in ("weight", "bias")},
        ),
    ],
)
def test_what_a_variant_leaves_untrained(config: Any, names: set[str]) -> None:
    assert set(build(config).untrained(reranks=True)) == names


def test_a_cross_encoder_that_rests_is_read_by_re_ranking_alone() -> None:
    contrast = build(without(MARS, "pitm", "mlm", "prd", "mrtd", "attribute"))
    named = set(contrast.untrained(reranks=True))
    assert named > MATCHING and any("layers.0.cross_attention." in name for name in named)
    assert contrast.untrained(reranks=False) == []


def test_laip_is_refused_where_a_random_word_head_would_score_words(tmp_path: Path) -> None:
    """Table IV, row 5, from ALBEF on COCO with and without its word head."""
    folder, method = RunFolder(tmp_path), build(without(LAIP, "mpm"))
    for keep in (False, True):
        coco = build(replace(ALBEF, keep_word_head=keep))
        save_file({name: tensor.clone() for name, tensor in coco.state_dict().items()}, tmp_path / f"{keep}.safetensors")
    for given in (Start(), Start(weights=str(tmp_path / "False.safetensors"))):
        with pytest.raises(ValueError, match=r"online\.word_head\.bias, .* would stay random"):
            start(method, folder, given)
    start(method, folder, Start(weights=str(tmp_path / "True.safetensors")))

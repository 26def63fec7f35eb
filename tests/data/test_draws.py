"""Draws: functions of (seed, epoch, pair) alone, fair, in the order asked for, and blind to padding and to other pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbps.config.methods.aga import Aga
from tbps.config.methods.albef import Albef
from tbps.config.methods.mars import Mars, MarsWeights
from tbps.config.methods.rasa import Rasa
from tbps.config.needs import Draw, Needs, Text
from tbps.data.draws import draw_pair, generator_of, stack_draws

ASKED = (
    Draw(name="negatives", numbers=2),
    Draw(name="mlm", per="token", numbers=4),
    Draw(name="words", per="token"),
    Draw(name="mae", numbers=6),
)


def drawn(key: str, *, tokens: int = 9, seed: int = 1, epoch: int = 2, use: str = "draws") -> dict[str, Tensor]:
    return draw_pair(ASKED, generator=generator_of(seed=seed, epoch=epoch, key=key, use=use), num_tokens=tokens)


def test_the_same_pair_draws_the_same_numbers() -> None:
    first, second = drawn("a"), drawn("a")
    assert list(first) == [draw.name for draw in ASKED]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 3}, {"use": "augmentation"}])
def test_seed_epoch_and_use_change_all_numbers(change: dict[str, int]) -> None:
    first, second = drawn("a"), drawn("a", **change)  # type: ignore[arg-type]
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_keys_and_numbers_do_not_run_into_each_other() -> None:
    states = [
        generator_of(seed=seed, epoch=epoch, key=key, use=use).initial_seed()
        for seed, epoch, key, use in [
            (1, 2, "a", "b"),
            (12, 2, "a", "b"),
            (1, 22, "a", "b"),
            (1, 2, "ab", ""),
            (1, 2, "", "ab"),
            (1, 2, "2a", "b"),
        ]
    ]
    assert len(set(states)) == 6


def test_shapes_and_range() -> None:
    pair = drawn("a")
    assert {name: tuple(value.shape) for name, value in pair.items()} == {
        "negatives": (2,),
        "mlm": (4, 9),
        "words": (1, 9),
        "mae": (6,),
    }
    numbers = torch.cat([value.flatten() for value in pair.values()])
    assert numbers.dtype == torch.float64 and numbers.min() >= 0 and numbers.max() < 1
    assert len(numbers.unique()) == len(numbers), "no number serves two choices"


def test_numbers_are_one_stream_cut_in_the_order_asked_for() -> None:
    stream = torch.rand(
        2 + 4 * 9 + 9 + 6, generator=generator_of(seed=1, epoch=2, key="a", use="draws"), dtype=torch.float64
    )
    assert torch.equal(torch.cat([value.flatten() for value in drawn("a").values()]), stream)


def test_what_mars_rasa_and_aga_draw_is_fixed_by_its_order() -> None:
    """Their published figures were made with these numbers: what is asked for later changes nothing before it."""
    rasa = [("negatives", "pair", 2), ("mlm", "token", 4), ("mrtd", "token", 4), ("words", "token", 1)]
    expected = {
        Rasa(): rasa,
        Mars(): [*rasa, ("mae", "pair", 24 * 8)],
        Aga(): [*rasa, ("masked", "token", 1), ("other_word", "token", 1), ("enriched", "pair", 1)],
    }
    for config, draws in expected.items():
        assert [(draw.name, draw.per, draw.numbers) for draw in config.needs((384, 128)).draws] == draws


def test_a_loss_without_a_weight_moves_no_other_choice() -> None:
    """Rows of an ablation differ by what they ablate: the image patches that MAE keeps are those of the whole method."""
    assert [draw.name for draw in Albef().needs((384, 384)).draws] == ["negatives"]
    without_words = MarsWeights(pitm=0, mlm=0, prd=0, mrtd=0, attribute=0)
    assert Mars(weights=without_words).needs((384, 384)).draws == Mars().needs((384, 384)).draws
    assert [draw.name for draw in Mars(weights=MarsWeights(mae=0)).needs((384, 384)).draws][-1] == "words"
    assert draw_pair((), generator=torch.Generator(), num_tokens=3) == {}


def test_a_pair_draws_the_same_in_any_company_and_at_any_length() -> None:
    lengths = {"a": 9, "b": 4, "c": 16}
    together = stack_draws(ASKED, [drawn(key, tokens=tokens) for key, tokens in lengths.items()], length=16)
    for row, (key, tokens) in enumerate(lengths.items()):
        alone = stack_draws(ASKED, [drawn(key, tokens=tokens)], length=tokens)
        for draw in ASKED:
            found = together[draw.name][row]
            if draw.per == "token":
                assert (found[..., tokens:] == 1).all()
                found = found[..., :tokens]
            assert torch.equal(found, alone[draw.name][0]), draw.name
            assert torch.equal(found, drawn(key, tokens=tokens)[draw.name]), draw.name


def test_numbers_are_fair() -> None:
    draws = stack_draws(ASKED, [drawn(str(number), tokens=100) for number in range(200)], length=100)
    for name, value in draws.numbers.items():
        counts = (value * 10).long().flatten().bincount(minlength=10)
        expected = value.numel() / 10
        # Chi-square over 10 parts has mean 9 and standard deviation about 4.
        assert len(counts) == 10 and ((counts - expected).square() / expected).sum().item() < 26, name


def test_a_name_may_be_asked_for_once() -> None:
    with pytest.raises(ValueError, match=r"needs\.draws names 'mlm' 2 times, expected once: rename one"):
        Needs(text=Text(size=9, max_tokens=9), draws=(*ASKED, Draw(name="mlm")))

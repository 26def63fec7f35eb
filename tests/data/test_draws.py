"""Draws: functions of (seed, epoch, pair) alone, fair, and blind to padding and to the other pairs of the batch."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from tbps.data.batch import Draws, TokenMask
from tbps.data.draws import DrawSpec, PairDraws, draw_pair, generator_of, stack_draws

SPEC = DrawSpec(
    mlm_probability=0.15, mrtd_probability=0.3, vocabulary_size=50, num_patches=6, token_numbers=2, pair_numbers=1
)


def drawn(key: str, *, tokens: int = 9, seed: int = 1, epoch: int = 2, use: str = "draws") -> PairDraws:
    return draw_pair(SPEC, generator=generator_of(seed=seed, epoch=epoch, key=key, use=use), num_tokens=tokens)


def tensors(draws: Draws) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for field in fields(draws):
        value = getattr(draws, field.name)
        if isinstance(value, TokenMask):
            found |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        elif value is not None:
            found[field.name] = value
    return found


def test_the_same_pair_draws_the_same_numbers() -> None:
    first, second = drawn("a"), drawn("a")
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 3}, {"use": "augmentation"}])
def test_seed_epoch_and_use_change_every_field(change: dict[str, int]) -> None:
    first, second = drawn("a"), drawn("a", **change)  # type: ignore[arg-type]
    for field in fields(first):
        assert not torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


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
    shapes = {"negative_2": (2,), "mlm_4T": (4, 9), "mrtd_4T": (4, 9), "word_T": (9,), "mae_N": (6,)}
    shapes |= {"token_UT": (2, 9), "pair_U": (1,)}
    for name, shape in shapes.items():
        value = getattr(pair, name)
        assert value.shape == shape
        assert value.min() >= 0 and value.max() < 1
    assert pair.mae_N.dtype == torch.float32


def test_no_number_serves_two_choices() -> None:
    pair = drawn("a")
    parts = [pair.negative_2, pair.mlm_4T.flatten(), pair.mrtd_4T.flatten(), pair.word_T, pair.mae_N.double()]
    parts += [pair.token_UT.flatten(), pair.pair_U]
    numbers = torch.cat(parts)
    assert len(numbers.unique()) == len(numbers)


def test_a_pair_draws_the_same_in_any_company_and_at_any_length() -> None:
    lengths = {"a": 9, "b": 4, "c": 16}
    together = tensors(stack_draws(SPEC, [drawn(key, tokens=tokens) for key, tokens in lengths.items()], length=16))
    for row, (key, tokens) in enumerate(lengths.items()):
        alone = tensors(stack_draws(SPEC, [drawn(key, tokens=tokens)], length=tokens))
        assert set(alone) == set(together)
        for name, value in alone.items():
            found = together[name][row]
            found = found[..., :tokens] if name.endswith("L") else found
            assert torch.equal(found, value[0]), name


def test_each_field_is_made_of_its_own_numbers() -> None:
    pair = drawn("a")
    draws = stack_draws(SPEC, [pair], length=9)
    for mask, numbers_4T, probability in ((draws.mlm, pair.mlm_4T, 0.15), (draws.mrtd, pair.mrtd_4T, 0.3)):
        assert torch.equal(mask.select_BL[0], numbers_4T[0] < probability)
        assert torch.equal(mask.mask_BL[0], numbers_4T[1] < 0.8)
        assert torch.equal(mask.random_BL[0], numbers_4T[2] < 0.5)
        assert torch.equal(mask.word_BL[0], (numbers_4T[3] * 50).long())
    assert torch.equal(draws.negative_B2[0], pair.negative_2)
    assert torch.equal(draws.word_BL[0], pair.word_T)
    assert torch.equal(draws.mae_noise_BN[0], pair.mae_N)
    assert draws.token_BUL is not None and torch.equal(draws.token_BUL[0], pair.token_UT)
    assert draws.pair_BU is not None and torch.equal(draws.pair_BU[0], pair.pair_U)


def test_further_numbers_change_no_other_and_are_made_only_where_asked_for() -> None:
    plain = replace(SPEC, token_numbers=0, pair_numbers=0)
    few = draw_pair(plain, generator=generator_of(seed=1, epoch=2, key="a", use="draws"), num_tokens=9)
    more = drawn("a")
    for field in fields(few):
        if field.name not in ("token_UT", "pair_U"):
            assert torch.equal(getattr(few, field.name), getattr(more, field.name)), field.name
    draws = stack_draws(plain, [few], length=9)
    assert draws.token_BUL is None and draws.pair_BU is None


def test_padding_is_never_chosen() -> None:
    greedy = replace(SPEC, mlm_probability=1.0, mrtd_probability=1.0)
    draws = stack_draws(greedy, [drawn("a", tokens=3), drawn("b", tokens=8)], length=8)
    for mask in (draws.mlm, draws.mrtd):
        assert mask.select_BL.tolist() == [[True] * 3 + [False] * 5, [True] * 8]


def test_shares_and_words() -> None:
    draws = stack_draws(SPEC, [drawn(str(number), tokens=100) for number in range(200)], length=100)
    for mask, probability in ((draws.mlm, 0.15), (draws.mrtd, 0.3)):
        for field, expected in ((mask.select_BL, probability), (mask.mask_BL, 0.8), (mask.random_BL, 0.5)):
            error = 4 * (expected * (1 - expected) / 20_000) ** 0.5
            assert field.float().mean().item() == pytest.approx(expected, abs=error)
        counts = mask.word_BL.flatten().bincount(minlength=50)
        assert len(counts) == 50
        # Chi-square over 50 words has mean 49 and standard deviation about 10.
        assert ((counts - 400.0).square() / 400).sum().item() < 100
    numbers = torch.cat([draws.negative_B2.flatten(), draws.word_BL.flatten(), draws.mae_noise_BN.flatten().double()])
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_method_without_patches_draws_none() -> None:
    pair = draw_pair(replace(SPEC, num_patches=0), generator=torch.Generator().manual_seed(0), num_tokens=4)
    assert stack_draws(SPEC, [pair, pair], length=8).mae_noise_BN.shape == (2, 0)

"""Text enrichment: the draw against a loop over AGA Eq. 10-11, its shares, and what is left where nothing may be drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tbps.objectives.text_enrichment import draw_other_words

NEVER = (0, 2, 3)


def draw(logit: Tensor, original: Tensor, uniform: Tensor, *, candidates: int = 5) -> Tensor:
    return draw_other_words(logit, original, uniform, candidates=candidates, never=NEVER)


def random_case(rows: int, *, words: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logit = 2 * torch.randn(rows, words, generator=generator)
    original = torch.randint(4, words, (rows,), generator=generator)
    original[: rows // 2] = logit[: rows // 2, 4:].argmax(1) + 4  # half are among the candidates
    return logit, original, torch.rand(rows, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("candidates", [2, 3, 5, 10, 50])
def test_equals_a_loop_over_words(candidates: int) -> None:
    logit, original, uniform = random_case(60)
    found = draw(logit, original, uniform, candidates=candidates)
    for row in range(60):
        values = logit[row].tolist()
        words = [word for word in range(12) if word not in NEVER]
        words = sorted(words, key=lambda word: -values[word])[:candidates]
        words = [word for word in words if word != original[row]]
        weights = [math.exp(values[word]) for word in words]
        cumulated, expected = 0.0, words[-1]
        for word, weight in zip(words, weights, strict=True):
            cumulated += weight / sum(weights)
            if cumulated > uniform[row]:
                expected = word
                break
        assert found[row].item() == expected


def test_shares_are_those_of_the_logits_without_the_original() -> None:
    logit = torch.tensor([[0.0, 9.0, 9.0, 9.0, 2.0, 1.5, 1.0, 0.5, 0.0, -3.0]])
    steps = 4000
    uniform = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    found = draw_other_words(logit.expand(steps, -1), torch.full((steps,), 5), uniform, candidates=5, never=(1, 2, 3))
    share = logit[0, [4, 6, 7, 0]].double().exp()
    share = steps * share / share.sum()
    counted = found.bincount(minlength=10)
    # words 0 and 8 tie for the fifth place
    assert counted[[5, 9, 1, 2, 3]].sum() == 0
    assert counted[[4, 6, 7]].tolist() == pytest.approx(share[:3].tolist(), abs=1)
    assert counted[0] + counted[8] == pytest.approx(share[3].item(), abs=1)


def test_fewer_than_k_words_and_none() -> None:
    logit, original, uniform = random_case(6, words=5)  # 1 and 4 are words
    original[:3], original[3:] = 4, 1
    assert draw(logit, original, uniform).tolist() == [1, 1, 1, 4, 4, 4]
    assert draw_other_words(logit, original, uniform, candidates=5, never=range(5)).tolist() == original.tolist()
    best = logit.argmax(1)
    assert draw_other_words(logit, best, uniform, candidates=1, never=()).tolist() == best.tolist()


def test_no_masked_word() -> None:
    assert draw(torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)).shape == (0,)


def test_the_largest_number_below_1_draws_a_candidate() -> None:
    logit, original, _ = random_case(200)
    found = draw(logit, original, torch.full((200,), 1 - 2**-53, dtype=torch.float64))
    assert (found != original).all() and not torch.isin(found, torch.tensor(NEVER)).any()


class _FromHost(TorchDispatchMode):
    """Collects operations that bring a number from the host to the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {arg.device.type for arg in args if isinstance(arg, torch.Tensor)}
        if func.overloadpacket.__name__ == "copy_" and devices == {"cuda", "cpu"}:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_copied_from_the_host_which_a_gpu_would_wait_for() -> None:
    with FakeTensorMode(), _FromHost() as copies:
        logit_MV = torch.empty(4, 60, device="cuda")
        original_M = torch.empty(4, dtype=torch.int64, device="cuda")
        uniform_M = torch.empty(4, dtype=torch.float64, device="cuda")
        draw_other_words(logit_MV, original_M, uniform_M, candidates=5, never=(0, 2, 3))
        assert not copies.found
        logit_MV[0, 0] = 1.0  # what this looks for
        assert copies.found

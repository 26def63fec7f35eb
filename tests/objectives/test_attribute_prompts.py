"""APTM's attribute losses: naive loops, unknown labels, smoothing, gradients; prompts in MALS's order."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32

from tbps.config.mals_prompts import mals_prompts
from tbps.objectives.attribute_prompts import prompt_labels, two_way_loss
from tbps.synthetic.mals import ATTRIBUTES

torch.manual_seed(0)
LOGITS = torch.randn(2, 4, 3, 2, dtype=torch.float64)
LABELS = torch.tensor([[[0, 1, -1], [1, -1, -1], [0, 0, -1], [1, 1, -1]], [[-1, 0, 1], [-1, 1, 1], [0, -1, 0], [1, -1, 0]]])


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_it_is_the_formula(smoothing: float) -> None:
    total = 0.0
    for group in range(2):
        for question in range(3):
            values = []
            for image in range(4):
                label = int(LABELS[group, image, question])
                if label < 0:
                    continue
                powers = [math.exp(float(LOGITS[group, image, question, c])) for c in range(2)]
                target = [(1 - smoothing) * (c == label) + smoothing / 2 for c in range(2)]
                values.append(-sum(y * math.log(p / sum(powers)) for y, p in zip(target, powers, strict=True)))
            total += sum(values) / len(values) / 3 / 2 if values else 0.0
    assert two_way_loss(LOGITS, LABELS, smoothing=smoothing).item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_what_nobody_knows_gives_no_nan_and_moves_nothing(smoothing: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = two_way_loss(logits, torch.full_like(LABELS, -1), smoothing=smoothing)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()
    logits.grad = None
    two_way_loss(logits, LABELS, smoothing=smoothing).backward()
    assert logits.grad.isfinite().all() and not logits.grad[LABELS < 0].any()
    assert logits.grad[LABELS >= 0].all()


def test_logits_of_zeros() -> None:
    found = two_way_loss(torch.zeros_like(LOGITS), LABELS, smoothing=0.4)
    assert found.item() == pytest.approx(math.log(2) * 5 / 6, rel=1e-6)  # nobody in the first group answers the third


def test_gradient() -> None:
    assert torch.autograd.gradcheck(
        lambda logit: two_way_loss(logit, LABELS, smoothing=0.4), LOGITS.clone().requires_grad_(), **FLOAT32
    )


def test_a_prompt_is_true_of_the_label_it_stands_for() -> None:
    prompt = torch.tensor([[0, 1, 5], [4, 2, 3]])
    found = prompt_labels(LABELS, prompt)
    for group in range(2):
        for image in range(4):
            for place in range(3):
                attribute, value = divmod(int(prompt[group, place]), 2)
                label = int(LABELS[group, image, attribute])
                assert found[group, image, place] == (-1 if label < 0 else int(label == value))


def test_prompts_stand_in_the_order_of_the_labels() -> None:
    prompts = mals_prompts()
    assert len(prompts) == len(set(prompts)) == 54 == 2 * len(ATTRIBUTES)
    for number, attribute in enumerate(ATTRIBUTES):
        first, second = prompts[2 * number : 2 * number + 2]
        part, _, colour = attribute.partition(" ")
        if part in ("upper", "lower"):
            if part == "upper":
                assert first == f"the person wears {colour} upper clothes"
                assert second == f"the person does not wear {colour} upper clothes"
        elif attribute in ("hat", "backpack", "handbag", "bag"):
            assert (first, second) == (f"the person with a {attribute}", f"the person without a {attribute}")
    said = [prompt.removeprefix("the person ") for prompt in prompts]
    assert said[:6] == [
        *("is a woman", "is a man"),
        *("is younger than 18 years old", "is older than 18 years old"),
        *("with short hair", "with long hair"),
    ]
    assert said[14:20] == [
        *("wears long sleeved upper clothes", "wears short sleeved upper clothes"),
        *("wears long dress or long pants", "wears short dress or short pants"),
        *("wears dress or skirt", "wears pants or shorts"),
    ]
    lower = [attribute.removeprefix("lower ") for attribute in ATTRIBUTES[18:]]
    assert [f"the person wears {colour} lower clothes" for colour in lower] == list(prompts[36::2])

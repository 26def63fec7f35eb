"""Places of the queue that hold nothing yet: counted as in the official code, or ignored, in every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import ALBEF, CONFIGS, Config, build, make_step, total_loss
from torch import Tensor


def contrast_of(config: Config, *, queue_seed: int, steps: int = 0) -> Tensor:
    """The contrast of a first step, or of one after others, with an empty queue of such random features."""
    method = build(config)
    generator = torch.Generator().manual_seed(queue_seed)
    for features in (method.queue.image_KE, method.queue.caption_KE):
        features.copy_(torch.nn.functional.normalize(torch.randn(features.shape, generator=generator), dim=1))
    batch, draws = make_step(config)
    for _ in range(steps):
        method(batch, draws)
        method.after_step()
    losses, _ = method(batch, draws)
    total_loss(method, losses).backward()
    return losses.get("cl", losses.get("itc"))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_lies_in_empty_places_counts_or_does_not(config: Config) -> None:
    config = replace(config, queue_pairs=20)
    assert contrast_of(config, queue_seed=1) != contrast_of(config, queue_seed=2)
    ignored = replace(config, empty_queue="ignored")
    assert contrast_of(ignored, queue_seed=1) == contrast_of(ignored, queue_seed=2) < contrast_of(config, queue_seed=1)
    assert contrast_of(ignored, queue_seed=1, steps=1) == contrast_of(ignored, queue_seed=2, steps=1), "8 of 20 are filled"
    assert contrast_of(ignored, queue_seed=1, steps=3) == contrast_of(config, queue_seed=1, steps=3), "all are filled"


def test_a_stored_queue_knows_its_empty_places() -> None:
    config = replace(ALBEF, queue_pairs=20, empty_queue="ignored")
    method, resumed = build(config), build(config)
    batch, draws = make_step(config)
    method(batch, draws)
    method.after_step()
    resumed.load_state_dict(method.state_dict())
    losses = [each(batch, draws)[0]["itc"] for each in (method, resumed)]
    assert torch.equal(*losses)
    assert resumed.first_step_in_words().startswith("12 of the queue's 20 places were empty in the first step")


def test_the_share_is_told() -> None:
    method = build(ALBEF)
    assert method.first_step_in_words() == ""
    batch, draws = make_step(ALBEF)
    method.eval()(batch, draws)
    assert method.first_step_in_words() == ""
    method.train()
    with torch.no_grad():
        method.temperature.fill_(1e4)  # every candidate has the same share: 4 of the group and 10 of the queue
    method(batch, draws)
    assert method.first_step_in_words() == (
        "10 of the queue's 10 places were empty in the first step and took 71 % of its softmax over captions, as in the"
        " official code; --method.empty-queue ignored leaves them out"
    )
    method = build(replace(ALBEF, empty_queue="ignored"))
    method(batch, draws)
    assert method.first_step_in_words() == (
        "10 of the queue's 10 places were empty in the first step: left out of the contrast until they are filled"
    )
    method.queue.identity_K.fill_(3)
    method.past.first_empty = None
    method(batch, draws)
    assert method.first_step_in_words() == ""

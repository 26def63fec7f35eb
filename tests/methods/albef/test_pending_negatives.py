"""Hard negatives of a step: which weights draw which side, rows of the matching call, recorded choices."""

from __future__ import annotations

import numpy as np
import torch
from tiny_methods import RASA, make_step

from tbps.methods.albef.pending_negatives import Negatives, PendingNegatives

IDENTITY = torch.tensor([1, 2, 3, 1, 2, 3])


def pending(**recorded: torch.Tensor) -> PendingNegatives:
    _, draws = make_step(RASA, identities=(1, 2, 3, 1, 2, 3), group_pairs=3)
    draws.recorded.update(recorded)
    # A caption's negative image follows t2i (the next member), an image's negative caption follows i2t (the one before).
    near = torch.full((6, 5), -1000.0)
    t2i, i2t = near.clone(), near.clone()
    rows = torch.arange(6)
    t2i[rows, (rows + 1) % 3] = 0
    i2t[rows, (rows - 1) % 3] = 0
    t2i[:, 3:] = i2t[:, 3:] = 1000  # queue columns: never candidates
    return PendingNegatives(i2t_BC=i2t, t2i_BC=t2i, identity_B=IDENTITY, group_pairs=3, draws=draws)


def test_each_side_follows_its_own_similarities_inside_its_group() -> None:
    found = pending().wait()
    assert found.image_B.tolist() == [1, 2, 0, 4, 5, 3]
    assert found.caption_B.tolist() == [2, 0, 1, 5, 3, 4]
    assert found.has_B.tolist() == [True] * 6


def test_recorded_choices_are_taken() -> None:
    found = pending(negative_image=torch.tensor([2, 2, 1, 5, 5, 4])).wait()
    assert found.image_B.tolist() == [2, 2, 1, 5, 5, 4]
    assert found.caption_B.tolist() == [2, 0, 1, 5, 3, 4]


def test_rows_of_the_matching_call() -> None:
    negatives = Negatives(image_B=np.array([1, 0]), caption_B=np.array([4, 5]), has_B=np.array([True, True]))
    assert negatives.captions().tolist() == [0, 1, 0, 1, 4, 5]
    assert negatives.images().tolist() == [0, 1, 1, 0, 0, 1]

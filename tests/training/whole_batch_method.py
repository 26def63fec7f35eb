"""A dual encoder in miniature that contrasts the whole batch, and its run; as a script, one of the run's processes.

One loss is of all pairs, identities included, with a learned scale; the other one is a mean over the items of all captions,
of which each has randomly many.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from small_method import SmallEncoder, small_parts, small_run
from torch import Tensor, nn

from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Needs, Text
from tbps.config.run import Run
from tbps.data.batch import Batch, Draws
from tbps.methods.method import LossesAndNumbers, Method
from tbps.nn.dropout import Groups, Site, drop
from tbps.runs.run_folder import RunFolder
from tbps.training.loop import train
from tbps.training.process_end import end_process

PERSONS = 7
"""So that pairs of a batch share an identity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeBatch(MethodConfig):
    """Contrast over the whole batch."""

    MODULE: ClassVar[str] = __name__

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """Few things but that."""
        return Needs(text=Text(size=50, max_tokens=8), contrast="batch", matcher=False)


class WholeBatchMethod(Method):
    """Losses: contrast (of all pairs), items (mean over all items)."""

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__(weights={"contrast": 1.0, "items": 0.5})
        self.online = SmallEncoder(dropout=dropout)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.item_head = nn.Linear(16, 5)

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Features, and how many items each caption has."""
        numbers = range(batch.first_group, batch.first_group + batch.num_groups)
        groups = Groups(numbers=tuple(numbers), rows=(batch.group_pairs,) * batch.num_groups)
        return {
            "image": self.online.embed_image(batch.image_BCHW, groups),
            "text": self.online.embed_text(batch.paired, groups),
            "items": is_item(batch).sum(1),
        }

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class."""
        whole = batch.scope.whole(self.contrast_rows(batch, draws))
        same_GG = (batch.scope.identity_G[:, None] % PERSONS == batch.scope.identity_G % PERSONS).float()
        target_GG = same_GG / same_GG.sum(1, keepdim=True)
        logit_GG = self.logit_scale.exp() * whole["image"] @ whole["text"].T
        contrast = (F.cross_entropy(logit_GG, target_GG) + F.cross_entropy(logit_GG.T, target_GG)) / 2
        own_sum = self.item_losses(batch).sum()
        return {"contrast": contrast, "items": own_sum / whole["items"].sum() * batch.scope.shares}, {}

    def item_losses(self, batch: Batch) -> Tensor:
        """Of each item of the batch; dropout after that of the rows."""
        numbers = range(batch.first_group, batch.first_group + batch.num_groups)
        groups = Groups(numbers=tuple(numbers), rows=(batch.group_pairs,) * batch.num_groups)
        states = drop(self.online.words(batch.paired.token_ids_BL), Site.next(0.1, self.training), groups)
        chosen = is_item(batch)
        return F.cross_entropy(self.item_head(states[chosen]), batch.paired.token_ids_BL[chosen] % 5, reduction="none")


def is_item(batch: Batch) -> Tensor:
    """(B, L) bool."""
    return batch.paired.token_ids_BL % 4 == 0


def whole_batch_run(runs: Path, **changes: Any) -> Run:
    """20 steps of 16 pairs."""
    values = {"steps": 20, "batch_pairs": 16, "workers": 2, "lr": 3e-3, "eps": 1e-2, "every_epochs": 0.0, **changes}
    run = small_run(runs, **values)
    return replace(run, method=WholeBatch(), optim=replace(run.optim, rules=()))


def train_whole_batch(runs: Path, **changes: Any) -> None:
    """To the end; messages go to `runs`/log.txt."""
    runs.mkdir(exist_ok=True)
    run = whole_batch_run(runs, **changes)
    train(run, replace(small_parts(run), build=WholeBatchMethod))


def final_weights(runs: Path) -> Path:
    """Of a run of 20 steps."""
    return RunFolder(runs / "small" / "test").checkpoints / "step-00000020" / "model.safetensors"


if __name__ == "__main__":
    logging.basicConfig(filename=Path(sys.argv[1]) / "log.txt", level=logging.INFO, format="%(levelname)s %(message)s")
    train_whole_batch(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    end_process(0)

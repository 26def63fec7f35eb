"""How many persons the training pairs show: for methods that have a class for each of them.

A class is an identity as counted from 0 in the order in which the annotations first name it, whatever number the file gives.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from tbps.config.data import Data
from tbps.data.chunk_sharing import Team
from tbps.data.mixture import open_training_pairs
from tbps.data.pairs import PairSource
from tbps.data.remote import PATIENCE_S

logger = logging.getLogger(__name__)


def agree_on_identities(data: Data, team: Team, *, patience_s: float = PATIENCE_S) -> Data:
    """The settings with `num_identities` filled in: every process calls this.

    ValueError: the processes find different numbers, or another one than the settings name.
    """
    opened: list[PairSource] = []

    def count() -> int:
        opened.append(open_training_pairs(data, patience_s=patience_s))
        return opened[0].num_identities

    found = team.together(count, doing="counting the training identities")
    if len(set(found)) > 1:
        raise ValueError(
            f"the processes find {', '.join(map(str, sorted(set(found))))} training identities in {data.root}, expected one"
            " number; give all machines the same data"
        )
    if data.num_identities not in (0, found[0]):
        raise ValueError(
            f"the training pairs show {found[0]} identities, expected {data.num_identities}; change data.root, or"
            " --data.num-identities"
        )
    logger.info("%s", classes_in_words(opened[0]))
    return replace(data, num_identities=found[0])


def classes_in_words(source: PairSource) -> str:
    """What a reader of the log should know of them."""
    number = source.num_identities
    told = f"{number} training identities, classes 0 to {number - 1}"
    if source.annotated_range is None:
        return told
    low, high = source.annotated_range
    if high - low + 1 == number:
        return told
    return f"{told}: the ids as annotated, {low} to {high}, have gaps and are counted anew, in the order of the annotations"

"""A training step of every method at real size, in both precisions: the host waits for nothing but what is named here.

Python time is what this costs, about four seconds a method; layers are all there.
"""

from __future__ import annotations

from collections import Counter

import pytest
from rehearsed import METHODS, PAIRS, PRECISIONS, check, real_run, rehearsed

from tbps.planning.rehearsal import Rehearsal, stage
from tbps.planning.waits import naming_lines

NUMBERS = "Agreement.read"
"""Of every step: its numbers, copied while the update runs."""
NEGATIVES = "PendingNegatives.wait"
"""Hard negatives choose rows on the host, copied while the momentum encoder or the next loss runs."""
ALLOWED = {
    **{name: {NUMBERS: 1} for name in METHODS},
    **{name: {NUMBERS: 1, NEGATIVES: 1} for name in ("albef", "rasa", "mars", "laip")},
    # Words are masked by a probability of the momentum encoder.
    "aga": {NUMBERS: 1, NEGATIVES: 1, "AgaMethod.choose_words": 1},
    # Captions, and reworded captions.
    "aptm": {NUMBERS: 1, NEGATIVES: 2},
}
"""Waits for copies that were begun before, by who waits, and how often in a step."""


@pytest.mark.parametrize("name", METHODS)
def test_a_step_waits_for_its_numbers_alone(name: str) -> None:
    with rehearsed(name) as stand_in:
        for precision in PRECISIONS:
            waits = stand_in.waits(precision)
            check(waits)
            assert Counter(wait.function for wait in waits) == ALLOWED[name], precision
            assert stand_in.fake.tally.live["gradient"] > 0


@pytest.mark.parametrize("name", ["clip", "irra", "aptm"])
def test_two_passes_over_micro_batches_wait_for_no_more(name: str) -> None:
    run = real_run(name, "bf16", micro_batches=2, quick=True, group=PAIRS // 2)
    with stage(run, pairs=PAIRS) as fake, naming_lines():
        rehearsal = Rehearsal(run, fake, pairs=PAIRS, micro_batches=2)
        rehearsal.step()
        check(fake.waits.found)
        assert rehearsal.stepper.two_passes == (run.needs.contrast == "batch")

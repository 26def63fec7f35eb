"""`python -m tests.chaos --times 200`: kill and stop a run in two processes so often, and compare every end.

Each run is what a user starts by torchrun, with loader workers and dropout. SIGKILL and SIGTERM come in turns, at random
moments, to everything, to a rank, a worker or the launcher; the same command starts the run again until it is complete.
Ends with status 1 where an end differs from the undisturbed run by one bit, where a step was lost after a SIGTERM, or where
the same command does not go on.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "end_to_end"))

from interrupted_run import Chaos, on_adapters
from small_world import make_world


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=200, help="interruptions")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop earlier, with what was made until then")
    parser.add_argument("--seed", type=int, help="of signals, targets and moments (default: a new one)")
    parser.add_argument("--recipe", default="mars", help="its tiny is run")
    parser.add_argument("--zero", type=int, default=0, help="stage of DeepSpeed's ZeRO (default: DDP)")
    parser.add_argument("--lora", action="store_true", help="with adapters on frozen encoders, of a short run before")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    _say(f"seed {seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        world = make_world(Path(folder) / "world")
        more = on_adapters(world, Path(folder) / "base", recipe=given.recipe) if given.lora else []
        chaos = Chaos(world, Path(folder), seed=seed, say=_say, recipe=given.recipe, stage=given.zero, more=more, anew=True)
        _say(f"left alone, the run takes {chaos.starting_s:.0f} s to begin and {chaos.training_s:.0f} s to its end")
        try:
            chaos.interrupt(given.times, until=began + 60 * given.minutes)
            verdict = "every run ended as the undisturbed one, no step was lost after a SIGTERM, nothing was done by hand"
        except AssertionError as difference:
            verdict = f"FAILED in run {chaos.runs}: {difference}"
    killed, stopped = chaos.made[signal.SIGKILL], chaos.made[signal.SIGTERM]
    _say(
        f"{killed + stopped} interruptions ({killed} SIGKILL, {stopped} SIGTERM) of {chaos.runs} runs in"
        f" {(time.monotonic() - began) / 60:.1f} min, seed {seed}: {verdict}"
    )
    return int(verdict.startswith("FAILED"))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

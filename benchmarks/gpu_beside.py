"""What `benchmarks/gpu.py` asks of no GPU, in a process that sees none: prints one JSON object a line.

Memory that `tbps plan` foretells for each step (tbps/planning/rehearsal.py), and pairs that a core of the loader brings.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from gpu_loop import pairs_per_core_s
from real_methods import run_of

from tbps.planning.rehearsal import rehearse


def say(method: str, part: str, **about: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps({"method": method, "part": part, **about}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """argv: names of methods, batch sizes, precisions, whether quick, as JSON."""
    asked = json.loads(sys.argv[1])
    quick, rates = asked["quick"], dict[tuple[int, int], float]()
    for name in asked["names"]:
        image_px = run_of(name, quick=quick).data.image_px
        if image_px not in rates:
            rates[image_px] = pairs_per_core_s(image_px, images=16 if quick else 160)
        say(name, "loader", image_px=image_px, pairs_per_core_s=rates[image_px])
    for precision in asked["precisions"]:
        for name in asked["names"]:
            for pairs in asked["pairs"]:
                cost = rehearse(run_of(name, quick=quick, pairs=pairs, precision=precision), pairs=pairs)
                say(name, "foretold", precision=precision, pairs=pairs, peak_mib=cost.peak / 2**20)


if __name__ == "__main__":
    main()

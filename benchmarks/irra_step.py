"""A training step of IRRA at real size, ours beside a plain one that does what the published code does.

    python benchmarks/irra_step.py [--pairs 4] [--rounds 3] [--steps 1] [--clean] [--padding official masked]

The plain step (benchmarks/plain_irra.py) makes a second pass of the text encoder over the same masked captions, pads
captions to 77 tokens, and applies the vocabulary head at all 77 places. Ours makes one pass where all losses see masked
captions, as in the published code (with --clean, captions without masks for SDM and ID: two passes then, of which one needs
end tokens alone), computes no padding unless captions attend to it (`official`), and applies the head at masked words.
The losses of both are compared on the same weights and masks: equal to 1e-5, or the command fails. Each is timed in a
process of its own, in turns: ViT-B/16 at 384 x 128, 12 text layers, 4 cross layers, 49408 words, 11003 identities, captions
of 20 to 41 tokens; forward, backward, Adam: ours fused, as the toolkit trains, the plain step's by torch's default, as the
published code's; a last line leaves Adam out of both. On a CPU: one thread, CPU time, largest resident memory. On a GPU:
bfloat16 autocast, wall-clock time, largest memory allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from plain_irra import PlainIrra
from torch import Tensor
from workload import ALLOCATOR, fix_environment

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.config.methods.irra import Irra
from tbps.convert.irra_names import to_irra
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method
from tbps.objectives.irra_masking import MaskedWords, mask_words
from tbps.text.token_batch import Captions

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
PADDINGS = ("official", "masked")
EQUAL = 1e-5
Step = Callable[[], dict[str, Tensor]]


def configure(padding: Any, *, clean: bool, quick: bool) -> Irra:
    """IRRA of real size, or with `quick` one of two narrow layers."""
    if not quick:
        return Irra(padding=padding, mask_text_for_all_losses=not clean)
    towers = ClipSizes(
        image=ImageTowerSizes(width=32, layers=2, heads=2, intermediate=64),
        text=TextTowerSizes(width=32, layers=2, heads=2, intermediate=64, vocabulary_size=300),
        features=32,
    )
    return Irra(towers=towers, cross_layers=2, cross_heads=2, padding=padding, mask_text_for_all_losses=not clean)


def make_inputs(config: Irra, pairs: int, px: tuple[int, int]) -> tuple[Batch, Draws]:
    """Pairs of two images each, random pixels and words."""
    generator = torch.Generator().manual_seed(1)
    lengths = tuple(20 + 7 * (row % 4) for row in range(pairs))
    ids_BL = torch.randint(1, config.mask_id, (pairs, max(lengths)), generator=generator)
    numbers = torch.rand(pairs, 2, max(lengths), generator=generator, dtype=torch.float64)
    for row, length in enumerate(lengths):
        ids_BL[row, 0], ids_BL[row, length - 1] = config.mask_id + 1, config.mask_id + 2
        ids_BL[row, length:], numbers[row, :, length:] = 0, 1.0
    own = Captions(token_ids_BL=ids_BL, lengths=lengths, chunk_id_BL=torch.zeros_like(ids_BL))
    image_BCHW = torch.randn(pairs, 3, *px, generator=generator).to(DEVICE)
    identity_B = (torch.arange(pairs) // 2).to(DEVICE)
    batch = Batch(
        image_BCHW=image_BCHW,
        own=own,
        paired=own,
        replaced_B=torch.zeros_like(identity_B),
        identity_B=identity_B,
        group_pairs=pairs,
        epoch=1.0,
    )
    return batch, Draws(numbers={"mlm": numbers})


def build_ours(config: Irra, px: tuple[int, int], identities: int) -> Any:
    """Ours, with the weights that it starts from, which are the same at every call; the classifier's spread out."""
    torch.manual_seed(0)
    method = build_method(config, image_px=px, num_identities=identities)
    torch.nn.init.normal_(method.classifier.weight, std=0.1)
    return method.to(DEVICE)


def plain_step(model: PlainIrra, config: Irra, batch: Batch, draws: Draws) -> Step:
    """A forward pass of the plain one; masks are made beforehand, as loader workers make them in the published code."""
    ids_BL = batch.own.token_ids_BL
    masked = mask_words(ids_BL, draws["mlm"], mask_id=config.mask_id, probability=config.mlm_probability)
    missing = config.towers.text.max_positions - ids_BL.shape[1]
    padded = MaskedWords(*(F.pad(part, (0, missing)).to(DEVICE) for part in masked))
    return lambda: model(batch.image_BCHW, F.pad(ids_BL, (0, missing)).to(DEVICE), padded, batch.identity_B)


def make_step(which: str, config: Irra, *, pairs: int, quick: bool) -> tuple[torch.nn.Module, Step]:
    """The model of that name, and its forward pass on a batch."""
    px, identities = ((64, 32), 9) if quick else ((384, 128), 11_003)
    batch, draws = make_inputs(config, pairs, px)
    ours = build_ours(config, px, identities)
    if which == "ours":
        return ours, lambda: ours(batch, draws)[0]
    model = PlainIrra(config, image_px=px, num_identities=identities).to(DEVICE)
    model.load_state_dict(to_irra(ours.state_dict()), strict=True)
    return model, plain_step(model, config, batch, draws)


def now() -> float:
    """CPU seconds of this process, or on a GPU wall-clock seconds once it has done what it was given."""
    if ON_GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(which: str, config: Irra, *, pairs: int, steps: int, quick: bool) -> dict[str, Any]:
    """In this process: median seconds of the steps after a first, of them Adam's, peak MiB, and the first step's losses."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model, step = make_step(which, config, pairs=pairs, quick=quick)
    fused = True if which == "ours" else None
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5, eps=1e-3, weight_decay=4e-5, fused=fused)
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        exact = {name: float(loss) for name, loss in step().items()}
    times, of_adam = [], []
    for _ in range(1 + steps):
        start = now()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=ON_GPU):
            losses = step()
        torch.stack(list(losses.values())).sum().backward()
        computed = now()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ended = now()
        times.append(ended - start)
        of_adam.append(ended - computed)
    peak = torch.cuda.max_memory_allocated() / 1024 if ON_GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, adam = statistics.median(times[1:]), statistics.median(of_adam[1:])
    return {"seconds": seconds, "adam": adam, "mib": peak / 1024, "losses": exact}


def measure_apart(which: str, padding: str) -> dict[str, Any]:
    """`measure` in a process of its own, with the words that this one was started with."""
    command = [sys.executable, *sys.argv, "--measure", which, padding]
    done = subprocess.run(command, env=os.environ | ALLOCATOR, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the measurement of {which} ended with status {done.returncode}; see its message above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def difference(ours: dict[str, float], plain: dict[str, float]) -> float:
    """Largest relative difference of two steps' losses."""
    return max(abs(ours[name] - plain[name]) / abs(plain[name]) for name in plain)


def show(padding: str, rounds: int) -> bool:
    """Measure both in turns, print medians and ratios; whether the losses are equal."""
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for number in range(rounds):
        for which, measured in found.items():
            measured.append(measure_apart(which, padding))
            last = measured[-1]
            print(f"  round {number + 1}: {which}: {last['seconds']:.3f} s, {last['mib']:.0f} MiB", flush=True)
    seconds, adam, mib = (
        {which: statistics.median(one[what] for one in measured) for which, measured in found.items()}
        for what in ("seconds", "adam", "mib")
    )
    unit = "s" if ON_GPU else "CPU s"
    error = difference(found["ours"][0]["losses"], found["plain"][0]["losses"])
    print(f"\n{f'padding {padding}':18} {unit:>9} {'faster':>7} {'of it Adam':>10} {'peak MiB':>9} {'less':>6}")
    for which in found:
        gain, saved = seconds["plain"] / seconds[which], mib["plain"] / mib[which]
        print(f"{which:18} {seconds[which]:9.3f} {gain:6.2f}x {adam[which]:10.3f} {mib[which]:9.0f} {saved:5.2f}x")
    alone = {which: seconds[which] - adam[which] for which in found}
    print(f"without Adam {alone['plain']:.3f} and {alone['ours']:.3f} {unit}: {alone['plain'] / alone['ours']:.2f}x")
    values = ", ".join(f"{name} {value:.6f}" for name, value in found["ours"][0]["losses"].items())
    print(f"losses: {values}; largest relative difference {error:.1e} (at most {EQUAL:.0e})\n", flush=True)
    return error <= EQUAL


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of the batch (default 4; the paper: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default 3)")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a measurement (default 1)")
    parser.add_argument("--clean", action="store_true", help="SDM and ID see captions without masks, as in the paper")
    parser.add_argument("--padding", nargs="+", choices=PADDINGS, default=list(PADDINGS), help="attended to, or not")
    parser.add_argument("--quick", action="store_true", help="narrow encoders, to see that the command works")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, least in (("pairs", 2), ("rounds", 1), ("steps", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} is {getattr(arguments, name)}, expected {least} or more")
    if arguments.measure:
        which, padding = arguments.measure
        config = configure(padding, clean=arguments.clean, quick=arguments.quick)
        print(json.dumps(measure(which, config, pairs=arguments.pairs, steps=arguments.steps, quick=arguments.quick)))
        return
    equal = [show(padding, arguments.rounds) for padding in arguments.padding]
    if not all(equal):
        raise SystemExit("the losses differ: these are not timings of the same step")


if __name__ == "__main__":
    fix_environment()
    main()

"""Every method at the size of its recipe with random weights, and host batches of random pixels and words for it.

A batch holds what the method's needs ask for and nothing else, as loader workers bring it; with `quick` it is the recipe's
`tiny`. Shapes: B pairs, L tokens of the longest caption, H height, W width.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.config.needs import Text
from tbps.config.run import Run
from tbps.data.batch import Draws, HostBatch
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.data.fields import FIELDS
from tbps.data.label_sets import LABEL_SETS
from tbps.methods.method import Method
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions
from tbps.training.adapters import adapt

NAMES = ("mars", "rasa", "aga", "laip", "albef", "aptm", "clip", "irra", "bilma", "bamg")
"""Recipes that fine-tune: one for each method."""
IDENTITIES = 11_003
"""Of CUHK-PEDES's training split."""
MEAN_TOKENS, SPREAD, LEAST, MOST = 26.5, 0.35, 8, 50
"""Captions of CUHK-PEDES in tokens: log-normal, mean 28."""


def run_of(name: str, *, quick: bool = False, pairs: int = 0, precision: str = "fp32", dropout: bool = True) -> Run:
    """The recipe `cuhk-pedes`, or `tiny` where quick, with a batch of so many pairs (0 = its own) in one group.

    One group of the whole batch is what one GPU's pairs are in the papers. Without dropout, nothing is dropped at all.
    """
    run: Run = importlib.import_module(f"recipes.{name}").VARIANTS["tiny" if quick else "cuhk-pedes"]()
    pairs = pairs or run.data.batch_pairs
    identities = IDENTITIES if run.needs.identities else 0
    data = replace(run.data, batch_pairs=pairs, group_pairs=pairs, num_identities=identities)
    loop = replace(run.loop, precision=precision)
    # Frozen weights in bfloat16 compute under its autocast only.
    lora = run.lora if precision == "bf16" or not run.lora.on else replace(run.lora, base="fp32")
    return replace(run, data=data, loop=loop, lora=lora, method=run.method if dropout else _without_dropout(run.method))


def _without_dropout(config: object) -> object:
    changes: dict[str, object] = {}
    if hasattr(config, "bert"):
        changes["bert"] = replace(config.bert, dropout=0.0)
    if hasattr(config, "swin"):
        changes["swin"] = replace(config.swin, drop_path=0.0)
    return replace(config, **changes) if changes else config  # type: ignore[type-var]


def build(run: Run) -> Method:
    """The run's method in training mode on the CPU, the same at every call; adapters are put on, where the run has some."""
    torch.manual_seed(0)
    method = build_method(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities)
    adapt(method, run.lora)
    return method.train()


def host_batch(run: Run, *, seed: int = 0) -> HostBatch:
    """What the loader's workers would bring for one step; pinned where there is a GPU. It lies past the first epoch."""
    needs, pairs, (height, width) = run.needs, run.data.batch_pairs, run.data.image_px
    random = torch.Generator().manual_seed(seed)
    views = 2 if needs.second_view else 1
    own = captions(needs.text, pairs, seed=seed)
    replaced_B = (torch.arange(pairs) % 10 == 9).long() if needs.weak_positives else torch.zeros(pairs, dtype=torch.int64)
    other = captions(needs.text, pairs, seed=seed + 1000)
    augmentations = run.data.augmentations
    erase_BV4 = torch.tensor([height // 8, width // 8, height // 4, width // 4]).expand(pairs, views, 4).contiguous()
    host = HostBatch(
        pixels_BCHW=torch.randint(0, 256, (pairs, 3, height, width), generator=random, dtype=torch.uint8),
        second_pixels_BCHW=None,
        flip_BV=torch.rand(pairs, views, generator=random) < 0.5,
        shift_BV2=torch.randint(0, 3, (pairs, views, 2), generator=random) if "pad-crop" in augmentations else None,
        erase_BV4=erase_BV4 if "erase" in augmentations else None,
        own=own,
        paired=_chosen(replaced_B, other, own) if needs.weak_positives else own,
        replaced_B=replaced_B,
        identity_B=torch.randperm(IDENTITIES, generator=random)[:pairs],
        draws=_draws(run, own, seed=seed),
        keys=tuple(f"pair {row}" for row in range(pairs)),
        epoch=1.0,
        reworded=other if needs.rewording is not None else None,
        prompts=captions(needs.text, len(needs.prompts), seed=seed) if needs.prompts else None,
        maps={name: figures(name, run) for name in needs.fields if FIELDS[name].label_map},
        fields={name: torch.randint(-1, 2, (pairs, 27), dtype=torch.int8) for name in needs.fields if name == "attributes"},
    )
    return host.each_tensor(Tensor.pin_memory) if torch.cuda.is_available() else host


def captions(text: Text, count: int, *, seed: int, mean_tokens: float = MEAN_TOKENS) -> Captions:
    """Random words between the tokeniser's first and last token, with a chunk of two words at every seventh."""
    numbers = np.random.default_rng(seed)
    lengths = numbers.lognormal(np.log(mean_tokens), SPREAD, count).round().clip(LEAST, min(MOST, text.max_tokens))
    lengths = lengths.astype(int)
    longest = -(-int(lengths.max()) // 8) * 8
    ids_BL = torch.zeros(count, longest, dtype=torch.int64)
    chunk_BL = torch.zeros_like(ids_BL)
    first, last, low, high = _special(text)
    for row, length in enumerate(lengths):
        ids_BL[row, :length] = torch.from_numpy(numbers.integers(low, high, length))
        ids_BL[row, 0], ids_BL[row, length - 1] = first, last
        for chunk, place in enumerate(range(3, length - 2, 7), start=1):
            chunk_BL[row, place : place + 2] = chunk
    return Captions(
        token_ids_BL=ids_BL,
        lengths=tuple(lengths.tolist()),
        chunk_id_BL=chunk_BL,
        starts_BL=ids_BL % 5 != 1,
        vacuous_BL=(ids_BL % 11 == 0) & (ids_BL > 0),
    )


def _special(text: Text) -> tuple[int, int, int, int]:
    """First token, last token, lowest and one past the highest word."""
    if text.tokeniser == "clip":
        return text.size - 2, text.size - 1, 1, text.size - 3
    low = 1000 if text.size > 2000 else 5
    return text.start_id or 2, 102 if text.size > 2000 else 3, low, text.size


def _chosen(replaced_B: Tensor, other: Captions, own: Captions) -> Captions:
    """The own captions, but where another one is paired."""
    length = max(other.token_ids_BL.shape[1], own.token_ids_BL.shape[1])
    take_B1 = replaced_B[:, None] == 1

    def mixed(name: str) -> Tensor:
        both = [getattr(captions, name) for captions in (other, own)]
        return torch.where(take_B1, *(F.pad(values, (0, length - values.shape[1])) for values in both))

    lengths = torch.where(replaced_B == 1, torch.tensor(other.lengths), torch.tensor(own.lengths))
    names = ("token_ids_BL", "chunk_id_BL", "starts_BL", "vacuous_BL")
    return Captions(lengths=tuple(lengths.tolist()), **{name: mixed(name) for name in names})


def _draws(run: Run, own: Captions, *, seed: int) -> Draws:
    asked = run.needs.draws
    pairs = [
        draw_pair(asked, generator=generator_of(seed=seed, epoch=1, key=str(row), use="step"), num_tokens=length)
        for row, length in enumerate(own.lengths)
    ]
    return stack_draws(asked, pairs, length=own.token_ids_BL.shape[1])


def figures(name: str, run: Run) -> Tensor:
    """(B, H, W) uint8: a standing figure with every label of the set, in bands from head to foot."""
    height, width = run.data.image_px
    labels = len(LABEL_SETS[name.removeprefix("parsing_")].labels)
    band_H = (torch.arange(height) * (labels - 1) // height + 1).to(torch.uint8)
    figure_HW = torch.zeros(height, width, dtype=torch.uint8)
    figure_HW[:, width // 4 : width - width // 4] = band_H[:, None]
    return figure_HW.expand(run.data.batch_pairs, height, width).contiguous()

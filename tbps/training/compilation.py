"""torch.compile for encoders and cross layers: which parts of a method, how, and how often that happens.

What is compiled are methods of modules, in place: names of parameters, and so checkpoints, stay. A stack of blocks is one
graph, since each call of a compiled part costs the host about as much as several operations. Where units are dropped the
host draws their random numbers (tbps/nn/dropout.py), which no graph can hold: of BERT's and Swin's layers what lies between
two such places is compiled. Packed captions have another length in every step; their graphs take any length, and nothing is
padded but where CUDA graphs are recorded, one for each of a few shapes. Evaluations run without graphs: their batches would
ask for many more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.nn.attention import matmul_precision
from tbps.nn.bert import BertLayer
from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion
from tbps.nn.clip_block import ClipBlock, ClipBlocks
from tbps.nn.clip_image import ClipImageTower
from tbps.nn.cross_former import CrossFormer
from tbps.nn.fusion_block import FusionBlock
from tbps.nn.mae_decoder import DecoderBlock, MaeDecoder
from tbps.nn.packing import Packing, widened
from tbps.nn.swin import SwinBlock
from tbps.nn.vit import VisionTransformer, VitBlock
from tbps.training.distributed import gather_objects

logger = logging.getLogger(__name__)

BACKEND = "inductor"
_PARTS: tuple[tuple[type[nn.Module], str, bool, str], ...] = (
    (VisionTransformer, "encode", False, "ViT's blocks"),
    (SwinBlock, "attend", False, "Swin's attention"),
    (SwinBlock, "feed_forward", False, "Swin's feed-forward layers"),
    (BertLayer, "dense", True, "BERT's feed-forward layers"),
    (ClipBlocks, "forward", True, "CLIP's blocks"),
    (CrossFormer, "look", True, "cross-attention"),
    (BottleneckFusion, "forward", True, "the fusion"),
    (CrossFusion, "forward", True, "the fusion"),
    (MaeDecoder, "forward", True, "the image decoder"),
)
"""Modules, the method of theirs that is compiled, whether its lengths differ from step to step, and its name in the log."""
_BLOCKS = (VitBlock, ClipBlock, FusionBlock, DecoderBlock)
"""What stacks hold, and compute again in backward where activation checkpointing is on."""
ROWS, PLACES = 256, 16
"""Packed tokens, and the width of their padded view, are padded to multiples of so many where CUDA graphs are recorded."""
_MOST_GRAPHS = 64
"""Of one method of a class, after which torch runs it as it is: stages, widths, with and without gradients."""


class Compiled:
    """The compiled parts of a method, and how many graphs were made of them."""

    def __init__(self, names: Counter[str], *, cuda_graphs: bool) -> None:
        self.names, self.cuda_graphs = names, cuda_graphs
        """By their names in the log, how many there are; whether some are recorded as CUDA graphs."""
        self._graphs = self._failed = 0

    def begin_step(self) -> None:
        """Before each step: what CUDA graphs gave in the one before may be written over from here on."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def tell(self, step: int) -> None:
        """Say after a step what it compiled (the first ones do, later ones hardly ever), and what could not be compiled."""
        if (graphs := num_graphs()) > self._graphs:
            logger.info("step %d: %d graphs compiled, %d in all, in %.1f s", step, graphs - self._graphs, graphs, _spent_s())
            self._graphs = graphs
        if (failed := num_failed()) > self._failed:
            logger.warning(
                "step %d: %d functions could not be compiled and run as they are; PyTorch's warnings above say why",
                step,
                failed,
            )
            self._failed = failed


def compile_method(method: nn.Module, device: torch.device, *, cuda_graphs: bool = False) -> Compiled | None:
    """Compile what can be of a method, in place, at the first calls; says what, or why nothing is. Call on all processes.

    cuda_graphs: record what has fixed shapes, or can be padded to a few, and play it back; `begin_step` then goes before
    each step. None: this machine or another one cannot compile, and training goes on without.
    """
    reasons = [why for why in gather_objects(why_not(device)) if why]
    if reasons:
        logger.warning("loop.compile is left out, training goes on without it: %s", reasons[0])
        return None
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    # What the compiler stumbles over (as torch 2.11's does over BAMG's fusion) runs as it is, with torch's warning.
    torch._dynamo.config.suppress_errors = True
    # LAIP takes a gradient in its forward pass and keeps the graph, whose backward may then not write over what it reads.
    torch._functorch.config.donated_buffer = False
    # Our floats are constants. Else torch takes them for inputs, traces all, finds that it cannot, and starts over.
    torch._dynamo.config.specialize_float = True
    torch.compiler.assume_constant_result(
        matmul_precision
    )  # not where it is defined: this imports the compiler, for seconds
    if cuda_graphs and device.type != "cuda":
        logger.warning("loop.cuda_graphs is left out: a %s has none; what is compiled runs as it is", device.type)
        cuda_graphs = False
    names: Counter[str] = Counter()
    for module, name, ragged, words in _parts(method):
        padded = _PADDED.get(type(module)) if ragged else None
        recorded = cuda_graphs and (padded is not None or not ragged)
        mode = "reduce-overhead" if recorded else None
        made = torch.compile(getattr(module, name), backend=BACKEND, dynamic=ragged, mode=mode)
        setattr(module, name, padded(made) if recorded and padded else made)
        names[words + ", as CUDA graphs" * recorded] += 1
    if not names:
        logger.warning("loop.compile has no effect: this method has none of the layers that are compiled")
    else:
        logger.info("compiled when first called: %s", ", ".join(f"{words} ({number})" for words, number in names.items()))
    return Compiled(names, cuda_graphs=cuda_graphs)


def in_multiples(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of rows, (R, D) to (R, D), none of which reads another, called with R a multiple of `ROWS`: a graph is
    recorded for each R. Rows of zeros are added, and what becomes of them is dropped."""

    def padded(x_RD: Tensor) -> Tensor:
        added = -len(x_RD) % ROWS
        return function(F.pad(x_RD, (0, 0, 0, added)))[: len(x_RD)] if added else function(x_RD)

    return padded


def in_few_shapes(blocks: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`ClipBlocks.forward`, called with a multiple of `ROWS` packed rows and a padded view whose width is a multiple of
    `PLACES`: a graph is recorded for each pair of them. What becomes of added rows is dropped."""

    def padded(x: Tensor, packing: Packing | None = None, *, rows_S: Tensor | None = None, **more: bool) -> Tensor:
        if packing is None:
            return blocks(x, **more)
        added = -len(x) % ROWS
        wide = widened(packing, rows=added, multiple=PLACES)
        found = blocks(F.pad(x, (0, 0, 0, added)), wide, rows_S=rows_S, **more)
        return found[: len(x)] if rows_S is None else found

    return padded


_PADDED: dict[type[nn.Module], Callable[[Callable[..., Tensor]], Callable[..., Tensor]]] = {
    BertLayer: in_multiples,
    ClipBlocks: in_few_shapes,
}
"""How modules whose lengths differ are called where CUDA graphs of them are recorded; of others none are."""


def put_back(method: nn.Module) -> None:
    """Let all parts be what they were."""
    for module, name, _, _ in _parts(method):
        vars(module).pop(name, None)


def without_graphs(compiled: Compiled | None) -> AbstractContextManager[Any]:
    """Inside, compiled parts run as they are."""
    return nullcontext() if compiled is None else torch.compiler.set_stance("force_eager")


def why_not(device: torch.device) -> str:
    """Why torch.compile does not work here, by trying; empty where it does."""
    try:
        number = torch.ones(4, device=device, requires_grad=True)
        torch.compile(_trial, backend=BACKEND, dynamic=False)(number).backward()
    except Exception as error:  # no compiler, no Triton, an old card, a full disk: anything may be missing
        return f"torch.compile fails on {device.type} with {type(error).__name__}: {_first_line(error)}"
    return ""


def num_graphs() -> int:
    """Graphs that this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def num_failed() -> int:
    """Functions that this process tried to compile, and could not."""
    frames = torch._dynamo.utils.counters["frames"]
    return int(frames["total"] - frames["ok"])


def _trial(number: Tensor) -> Tensor:
    return (number.exp() + 1).sum()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else "no words"


def _spent_s() -> float:
    """Of the host, in making all graphs."""
    return torch._dynamo.utils.calculate_time_spent()["total_wall_time"]


def _parts(method: nn.Module) -> Iterator[tuple[nn.Module, str, bool, str]]:
    of_images = {tower.blocks for tower in method.modules() if isinstance(tower, ClipImageTower)}
    for module in method.modules():
        for kind, name, ragged, words in _PARTS:
            if isinstance(module, kind):
                differs = ragged and module not in of_images
                # What is computed again in backward is a block, and a graph cannot hold that: it is compiled inside.
                blocks = [each for each in module.modules() if isinstance(each, _BLOCKS)] if _computes_again(module) else []
                yield from ((block, "forward", differs, f"{words}, one by one") for block in blocks)
                if not blocks:
                    yield module, name, differs, words


def _computes_again(module: nn.Module) -> bool:
    return bool(getattr(module, "checkpointing", False))

"""What a method with adapters computes, and that their merged export computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tbps.command import main
from tbps.config.run import Run
from tbps.convert.weights import load_weights
from tbps.methods.method import Method
from tbps.methods.registry import build_method
from tbps.nn.lora import frozen_to
from tbps.runs.checkpoint import MODEL_FILE, read_tensors
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint
from tbps.text.token_batch import Captions
from tbps.training.start import load_finished


def built(run: Run) -> Method:
    """The run's method with random weights."""
    return build_method(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities)


def start_weights_of(run: Run) -> Method:
    """The run's method as it starts, without adapters."""
    method, start = built(run), Path(run.start.weights)
    load_weights(method, best_checkpoint(start) / MODEL_FILE if start.is_dir() else start)
    return method


def assert_merged_scores_as_adapted(folder: Path, out: Path) -> None:
    """By the export of a run with adapters, which is written to `out`; and that its adapters change every score."""
    run = RunFolder(folder).read_run()
    assert main(["convert", "--export", "--merge", str(folder), str(out)]) == 0
    assert {tensor.dtype for tensor in read_tensors(out).values() if tensor.is_floating_point()} == {torch.float32}
    adapted, merged, base = built(run).eval(), built(run).eval(), start_weights_of(run).eval()
    state = best_checkpoint(folder)
    load_finished(adapted, run, state)
    frozen_to([adapted], torch.float32)  # to compute without autocast
    load_weights(merged, out)
    expected, found, other = _scores(adapted, run), _scores(merged, run), _scores(base, run)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert (other[name] - tensor).abs().max() > 1e-4, f"{name}: adapters change nothing"


@torch.no_grad()
def _scores(method: Method, run: Run) -> dict[str, Tensor]:
    """Features of two images and two captions, and the matching scores of all pairs."""
    draws = torch.Generator().manual_seed(0)
    images = method.embed_images(torch.randn(2, 3, *run.data.image_px, generator=draws))
    ids_QL = torch.randint(5, 90, (2, 8), generator=draws)
    captions = Captions(token_ids_BL=ids_QL, lengths=(8, 5), chunk_id_BL=torch.zeros_like(ids_QL))
    embedded = method.embed_captions(captions)
    scores = {"image": images.feature_IE, "caption": embedded.feature_QE}
    if (matcher := method.matcher()) is not None and images.tokens_IPD is not None:
        score = matcher.prepare(captions, embedded.hidden_ND)
        image_M, caption_M = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        scores["matching"] = score(image_IPD=images.tokens_IPD, image_M=image_M, caption_M=caption_M)
    return scores

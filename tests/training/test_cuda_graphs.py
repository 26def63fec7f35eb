"""`loop.cuda_graphs` where there are none, and what it does to shapes: tests/gpu plays real ones back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbps.config.loop import Loop
from tbps.nn.bert import BertLayer
from tbps.nn.clip_block import ClipBlocks
from tbps.nn.packing import Packing, lay_out
from tbps.nn.vit import VisionTransformer
from tbps.training import compilation
from tbps.training.compilation import ROWS, compile_method, in_few_shapes, in_multiples, num_graphs

CPU = torch.device("cpu")
LENGTHS = (1, ROWS - 1, ROWS, ROWS + 1, *range(300, 1200, 90))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def layer_of(seed: int) -> BertLayer:
    torch.manual_seed(seed)
    return BertLayer(width=8, heads=2, intermediate=16, dropout=0.1, image_width=None)


def test_rows_that_are_added_change_nothing_and_graphs_are_few() -> None:
    plain, padded = layer_of(0), layer_of(0)
    seen: list[int] = []

    def dense(x_RD: Tensor) -> Tensor:
        seen.append(len(x_RD))
        return made(x_RD)

    made = torch.compile(padded.dense, backend="aot_eager", dynamic=True)
    run = in_multiples(dense)
    for rows in LENGTHS:
        x_RD = torch.randn(rows, 8)
        outcomes = []
        for layer, function in ((plain, plain.dense), (padded, run)):
            layer.zero_grad()
            leaf = x_RD.clone().requires_grad_()
            out = function(leaf)
            out.square().sum().backward()
            outcomes.append((out, leaf.grad, *(p.grad for p in (layer.fc1.weight, layer.fc1.bias, layer.fc2.weight))))
        for found, expected in zip(*outcomes, strict=True):
            assert found is not None and expected is not None
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert set(seen) == {-(-rows // ROWS) * ROWS for rows in LENGTHS} and len(set(seen)) == 5
    assert num_graphs() <= 2


def blocks_of(seed: int) -> ClipBlocks:
    torch.manual_seed(seed)
    return ClipBlocks(width=8, layers=2, heads=2, intermediate=16, quick_gelu=True)


@pytest.mark.parametrize("wanted", ["all rows", "some rows"])
@pytest.mark.parametrize("causal", [True, False])
def test_captions_in_few_shapes_have_the_same_features_and_gradients(causal: bool, wanted: str) -> None:
    plain, padded = blocks_of(0), blocks_of(0)
    seen: list[tuple[int, int]] = []

    def forward(x: Tensor, packing: Packing, **more: Any) -> Tensor:
        seen.append((len(x), packing.grid_SL.shape[1]))
        return ClipBlocks.forward(padded, x, packing, **more)

    run = in_few_shapes(forward)
    for seed, most in enumerate((5, 16, 31, 32, 33, 40)):
        tokens = np.random.default_rng(seed).integers(1, most + 1, 12)
        tokens[3] = most
        layout = lay_out(tokens)
        packing = layout.to(CPU)
        rows_S = torch.from_numpy(layout.start_S + tokens - 1) if wanted == "some rows" else None
        x_ND = torch.randn(int(tokens.sum()), 8)
        outcomes = []
        for module, function in ((plain, plain), (padded, run)):
            module.zero_grad()
            leaf = x_ND.clone().requires_grad_()
            out = function(leaf, packing, causal=causal, rows_S=rows_S)
            out.square().sum().backward()
            outcomes.append((out, leaf.grad, *(parameter.grad for parameter in module.parameters())))
        for found, expected in zip(*outcomes, strict=True):
            assert found is not None and expected is not None
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert {rows % ROWS for rows, _ in seen} == {0} and {width for _, width in seen} == {16, 32, 48}
    image = torch.randn(2, 5, 8)
    assert torch.equal(in_few_shapes(padded)(image, first_only=True), padded(image, first_only=True))


def test_without_a_gpu_there_are_none_and_one_sentence_says_so(caplog: pytest.LogCaptureFixture) -> None:
    vit = VisionTransformer(image_px=(8, 8), patch_px=4, width=8, depth=1, heads=2)
    image = torch.randn(2, 3, 8, 8)
    expected = vit(image)
    with caplog.at_level(logging.INFO):
        compiled = compile_method(vit, CPU, cuda_graphs=True)
    assert compiled is not None and not compiled.cuda_graphs
    compiled.begin_step()
    assert torch.allclose(vit(image), expected, atol=1e-6)
    assert "loop.cuda_graphs is left out: a cpu has none; what is compiled runs as it is" in caplog.messages
    assert "compiled when first called: ViT's blocks (1)" in caplog.messages


def test_graphs_of_parts_that_are_not_compiled_are_refused() -> None:
    said = "loop.cuda_graphs is True and loop.compile False, expected both: .*; set --loop.compile True"
    with pytest.raises(ValueError, match=said):
        Loop(cuda_graphs=True)
    assert Loop(cuda_graphs=True, compile=True).cuda_graphs

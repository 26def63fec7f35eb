"""The graph network: against dense products of 6 x 6 matrices, graph by graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from tbps.nn.body_graph import Adjacency, BodyGraph, edges
from tbps.nn.body_parts import PARTS

WIDTH = 8
STAR = {("torso", part) for part in PARTS if part != "torso"}


def adjacency(pairs: set[tuple[str, str]]) -> Tensor:
    """D^-1/2 (A + I) D^-1/2."""
    table = torch.eye(6, dtype=torch.float64)
    for one, other in pairs:
        table[PARTS.index(one), PARTS.index(other)] = table[PARTS.index(other), PARTS.index(one)] = 1
    root = table.sum(1).rsqrt()
    return root[:, None] * table * root


def dense(graph: BodyGraph, node_BKD: Tensor, table: Tensor) -> Tensor:
    x = node_BKD
    for number, layer in enumerate(graph.convolutions):
        x = table @ (x.relu() if number else x) @ layer.lin.weight.double().T + layer.bias.double()  # type: ignore[union-attr, operator]
    centred = x - x.mean(2, keepdim=True)
    normal = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    return normal * graph.norm.weight.double() + graph.norm.bias.double()


@pytest.mark.parametrize("kind", ["star", "star-and-head-arms"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equals_dense_products_with_its_gradients(kind: Adjacency, layers: int) -> None:
    torch.manual_seed(0)
    graph = BodyGraph(width=WIDTH, layers=layers, adjacency=kind)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    pairs = STAR | ({("head", "left arm"), ("head", "right arm")} if kind != "star" else set())
    node, probe = torch.randn(5, 6, WIDTH), torch.randn(5, 6, WIDTH)
    gradients = []
    for compute in (graph, lambda x: dense(graph, x.double(), adjacency(pairs))):
        given = node.clone().requires_grad_()
        result = compute(given)
        leaves = [given, *graph.parameters()]
        gradients.append([result.detach().double(), *torch.autograd.grad((result * probe).sum(), leaves)])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), atol=2e-5, rtol=1e-4)


def test_bodies_lie_one_after_another_as_torch_geometric_lays_them() -> None:
    graph = BodyGraph(width=WIDTH)
    pairs = torch.tensor(edges("star")).T
    one = Data(edge_index=torch.cat([pairs, pairs.flip(0)], 1), num_nodes=6)
    theirs = Batch.from_data_list([one] * 3).edge_index
    found = {tuple(edge) for edge in graph.batched_edges(3).T.tolist()}
    assert found == {tuple(edge) for edge in theirs.T.tolist()} and len(found) == 30
    assert list(graph.state_dict()) == [
        *(f"convolutions.{n}.{w}" for n in (0, 1) for w in ("bias", "lin.weight")),
        *("norm.weight", "norm.bias"),
    ]


def test_a_body_sees_no_other_body_and_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    graph, node = BodyGraph(width=WIDTH), torch.randn(3, 6, WIDTH)
    before = graph(node)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(graph(node), before)
    node[1] = -node[1]
    assert [torch.equal(one, other) for one, other in zip(graph(node), before, strict=True)] == [True, False, True]

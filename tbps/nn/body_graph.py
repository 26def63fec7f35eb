"""A graph network over the six parts of a body, by torch-geometric.

h' = ReLU(D^-1/2 (A + I) D^-1/2 h W + b) for each layer but the last, which has no ReLU, then layer norm; D are the degrees
with self-loops.
Shapes: B images, K = 6 parts (`tbps.nn.body_parts.PARTS`), D width, E directed edges of one body.
Source: BAMG (Text-based Person Re-identification via Bottlenecks Attention and Masked Graph
Modeling), Eq. 12, f_GNN; GCN: Kipf and Welling, arXiv 1609.02907, Eq. 2.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from tbps.nn.body_parts import PARTS, TORSO

with warnings.catch_warnings(action="ignore"):  # torch-geometric scripts some functions, which torch deprecates
    from torch_geometric.nn import GCNConv

Adjacency = Literal["star", "star-and-head-arms"]
_HEAD_ARMS = (("head", "left arm"), ("head", "right arm"))


def edges(adjacency: Adjacency) -> list[tuple[int, int]]:
    """Pairs of parts that are joined, each once: the torso to the other five, and on request the head to both arms."""
    star = [(TORSO, part) for part in range(len(PARTS)) if part != TORSO]
    more = _HEAD_ARMS if adjacency == "star-and-head-arms" else ()
    return star + [(PARTS.index(one), PARTS.index(other)) for one, other in more]


class BodyGraph(nn.Module):
    """Bodies of a batch, each a graph of its own."""

    edge_2E: Tensor

    def __init__(self, *, width: int, layers: int = 2, adjacency: Adjacency = "star") -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(GCNConv(width, width, add_self_loops=False) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        pairs = torch.tensor(edges(adjacency)).T
        self.register_buffer("edge_2E", torch.cat([pairs, pairs.flip(0)], dim=1), persistent=False)

    def forward(self, node_BKD: Tensor) -> Tensor:
        """Features of parts, with those of the parts they are joined to: (B, K, D) to (B, K, D), in float32."""
        with torch.autocast(node_BKD.device.type, enabled=False):
            x_ND = node_BKD.float().flatten(0, 1)
            # torch-geometric would add the loops itself, and wait for the device to count those that are there
            loop_N = torch.arange(len(x_ND), device=x_ND.device)
            edge_2M = torch.cat([self.batched_edges(len(node_BKD)), loop_N.expand(2, -1)], dim=1)
            for number, convolution in enumerate(self.convolutions):
                x_ND = convolution(x_ND if number == 0 else x_ND.relu(), edge_2M)
            return self.norm(x_ND).unflatten(0, node_BKD.shape[:2])

    def batched_edges(self, num_bodies: int) -> Tensor:
        """(2, B * E): the edges of B bodies laid one after another, as `torch_geometric.data.Batch` does, on the device."""
        first_B = len(PARTS) * torch.arange(num_bodies, device=self.edge_2E.device)
        return (self.edge_2E[:, None] + first_B[None, :, None]).flatten(1)

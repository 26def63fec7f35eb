"""Masked graph modelling in a step: from a parsing map to a graph with one part masked, into the image's tokens, and back.

Shapes: B images, P = 1 + N image tokens, [CLS] first, N patches, K = 6 parts, E features.
Source: BAMG, Eq. 10 to 15. What it leaves open: the head of tbps/methods/clip/bamg.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.nn.body_graph import Adjacency, BodyGraph
from tbps.nn.body_parts import PARTS, graph_mean, pool_parts, split_parts, spread_parts
from tbps.nn.device_copy import to_device
from tbps.objectives.masked_graph import choose_masked
from tbps.objectives.patch_labels import label_counts, patches_of

VECTOR_STD = 0.02
"""Standard deviation of learned vectors at the start."""


@dataclass(kw_only=True)
class Bodies:
    """Which parts of each body are seen, where, and which one is masked; all tensors lie on the device."""

    share_BNK: Tensor
    """Share of each patch's pixels that show each part, float32."""
    present_BK: Tensor
    """Whether any pixel of the image shows the part."""
    masked_BK: Tensor
    """The part that is masked, one of those that are present; none where none is."""


def read_bodies(
    map_BHW: Tensor, uniform_B: Tensor, *, patch_px: int, stride_px: int, erased_BHW: Tensor | None = None
) -> Bodies:
    """Parts of maps with the labels of Pascal-Person-Part; erased pixels show nothing. uniform_B chooses the masked part."""
    part_BHW = split_parts(map_BHW)
    if erased_BHW is not None:
        part_BHW = part_BHW.masked_fill(erased_BHW, 0)
    part_BNX = patches_of(part_BHW[:, None], patch_px=patch_px, stride_px=stride_px)[:, :, 0]
    count_BNK = label_counts(part_BNX, num_labels=1 + len(PARTS))[..., 1:]
    present_BK = count_BNK.sum(1) > 0
    return Bodies(
        share_BNK=count_BNK.float() / part_BNX.shape[-1],
        present_BK=present_BK,
        masked_BK=choose_masked(present_BK, to_device(uniform_B, present_BK.device)),
    )


@dataclass(kw_only=True)
class GraphTask:
    """What the masked graph gives to the fusion, and what is to be guessed behind it."""

    bodies: Bodies
    image_BXE: Tensor
    """Image tokens that hold the graph with a masked part: (B, P, E), or with the nodes behind them (B, P + K, E)."""
    target_BKE: Tensor
    """What is to be guessed of all parts, float32."""


class MaskedGraph(nn.Module):
    """Makes nodes of parts, masks one, runs the graph network, joins its result to the image's tokens, guesses it."""

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        adjacency: Adjacency,
        reads: Literal["patches", "nodes"],
        hide_masked: bool,
        target: Literal["graph", "features"],
        target_norm: bool,
        target_gradient: bool,
    ) -> None:
        super().__init__()
        self.reads, self.target, self.adjacency = reads, target, adjacency
        self.target_norm, self.target_gradient = target_norm, target_gradient
        self.graph = BodyGraph(width=width, layers=layers, adjacency=adjacency)
        self.absent_KE = nn.Parameter(VECTOR_STD * torch.randn(len(PARTS), width))
        """Stands for a part that is not seen."""
        self.masked_KE = nn.Parameter(VECTOR_STD * torch.randn(len(PARTS), width))
        """Stands for a part that is masked (Eq. 11). One for each part, or no limb could be told from another."""
        self.hidden_E: nn.Parameter | None = None
        """Stands for a patch that shows the masked part."""
        if hide_masked:
            self.hidden_E = nn.Parameter(VECTOR_STD * torch.randn(width))
        self.reduce: nn.Linear | None = None
        if reads == "patches":
            self.reduce = nn.Linear(2 * width, width)
            with torch.no_grad():  # training starts at CLIP's tokens, whatever the graph says
                self.reduce.weight.copy_(torch.cat([torch.eye(width), torch.zeros(width, width)], dim=1))
                self.reduce.bias.zero_()
        self.decoder = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, image_BPE: Tensor, bodies: Bodies) -> tuple[Tensor, Tensor]:
        """Put the graph with a masked part into the image's tokens: `image_BXE` and `target_BKE` of `GraphTask`.

        As bare tensors: ZeRO-3 looks for those in what a module returns, to gather its weights before backward needs them.
        """
        present_BK1, masked_BK1 = bodies.present_BK[..., None], bodies.masked_BK[..., None]
        patch_BNE = image_BPE[:, 1:]
        pooled_BKE = pool_parts(patch_BNE.detach().float(), bodies.share_BNK)
        node_BKE = torch.where(present_BK1, pooled_BKE, self.absent_KE)
        graph_BKE = self.graph(torch.where(masked_BK1, self.masked_KE, node_BKE))
        if self.hidden_E is not None:
            shows_BN1 = (bodies.share_BNK * bodies.masked_BK[:, None]).sum(2, keepdim=True) > 0
            patch_BNE = torch.where(shows_BN1, self.hidden_E.to(patch_BNE.dtype), patch_BNE)
        joined_BXE = self._join(image_BPE[:, :1], patch_BNE, graph_BKE, bodies)
        return joined_BXE, self._target(pooled_BKE, node_BKE)

    def without_graph(self, image_BPE: Tensor) -> Tensor:
        """Image tokens as matching sees them where there is no map: the graph's half is 0, or no node is appended."""
        if self.reduce is None:
            return image_BPE
        return self.reduce(torch.cat([image_BPE, torch.zeros_like(image_BPE)], dim=2))

    def guess(self, fused_BXE: Tensor, bodies: Bodies) -> Tensor:
        """(B, K, E) guesses: the decoder D of Eq. 14, on the fused tokens of each part's patches, or on its node."""
        if self.reduce is None:
            return self.decoder(fused_BXE[:, -len(PARTS) :])
        return self.decoder(pool_parts(fused_BXE[:, 1:].float(), bodies.share_BNK))

    def _join(self, cls_B1E: Tensor, patch_BNE: Tensor, graph_BKE: Tensor, bodies: Bodies) -> Tensor:
        if self.reduce is None:
            return torch.cat([cls_B1E, patch_BNE, graph_BKE.to(patch_BNE.dtype)], dim=1)
        mean_B1E = graph_mean(graph_BKE, bodies.present_BK)[:, None]
        spread_BNE = spread_parts(graph_BKE, bodies.share_BNK, bodies.present_BK)
        of_graph_BPE = torch.cat([mean_B1E, spread_BNE], dim=1).to(patch_BNE.dtype)
        return self.reduce(torch.cat([torch.cat([cls_B1E, patch_BNE], dim=1), of_graph_BPE], dim=2))

    def _target(self, pooled_BKE: Tensor, node_BKE: Tensor) -> Tensor:
        if self.target == "features":
            target_BKE = pooled_BKE
        else:
            with torch.set_grad_enabled(self.target_gradient and torch.is_grad_enabled()):
                target_BKE = self.graph(node_BKE)
        return F.layer_norm(target_BKE, target_BKE.shape[-1:]) if self.target_norm else target_BKE

"""MARS: RaSa with full cross-attention, an attribute loss and a text-aware masked autoencoder.

MARS: Paying more attention to visual attributes for text-based person search (arXiv 2407.04287; ErgastiAlex/MARS).

Shapes: B pairs, N patches, M chunks, T tokens of the longest chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps.config.methods.mars import Mars
from tbps.data.batch import Batch, Draws
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.albef.building import Backbone, build_backbone
from tbps.methods.albef.cross_calls import PackedCaptions, Tokens, encode_text
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.matching import Online
from tbps.methods.albef.pending_negatives import Negatives
from tbps.methods.albef.rasa import RasaMethod
from tbps.methods.albef.rasa_step import Matched, RasaStep, RasaTasks, predicts_words
from tbps.methods.albef.reconstructions import reconstruct, show_reconstructions
from tbps.methods.exhibit import Exhibit
from tbps.methods.method import LossesAndNumbers
from tbps.nn.device_copy import to_device
from tbps.nn.mae_decoder import MaeDecoder
from tbps.nn.packing import upload
from tbps.objectives.attribute import ChunkTable, attribute_loss, chunk_table, chunk_vectors
from tbps.objectives.mae import keep_patches, patch_pixels, reconstruction_loss
from tbps.text.token_batch import Captions


class MarsMethod(AlbefFamily):
    """Losses: RaSa's and mae, attribute. A weight of 0 leaves the loss and its passes out."""

    TRAINERS: ClassVar[Mapping[str, tuple[str, ...]]] = {**RasaMethod.TRAINERS, "itm_head.": ("pitm", "attribute")}
    MATCHING: ClassVar[tuple[str, ...]] = (*RasaMethod.MATCHING, "attribute")
    UNREAD: ClassVar[tuple[str, ...]] = RasaMethod.UNREAD

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: Mapping[str, float],
        mlm_probability: float,
        mrtd_probability: float,
        mlm_soft: Literal["vocabulary", "sequence"],
        mae_depth: int,
        mae_heads: int,
        mae_mask_ratio: float,
        attribute_head: Literal["shared", "own"],
    ) -> None:
        words = predicts_words(weights)
        super().__init__(backbone, weights=weights, word_head=words, momentum_words=words)
        image, text = self.online.image_encoder, self.online.text_encoder
        self.tasks = RasaTasks.of(
            self, mlm_probability=mlm_probability, mrtd_probability=mrtd_probability, mlm_soft=mlm_soft
        )
        self.prd_head, self.mrtd_head = self.tasks.prd_head, self.tasks.mrtd_head
        self.mae_mask_ratio = mae_mask_ratio
        self.mae_decoder: MaeDecoder | None = None
        if self.weights["mae"]:
            self.mae_decoder = MaeDecoder(
                width=image.width,
                text_width=text.width,
                depth=mae_depth,
                heads=mae_heads,
                num_patches=image.num_patches,
                patch_px=image.patch_px,
            )
        self.attribute_head: nn.Linear | None = None
        if attribute_head == "own" and self.weights["attribute"]:
            self.attribute_head = nn.Linear(text.width, 2)

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class. RaSa's order; the image is rebuilt while the hard negatives are on their way."""
        step = RasaStep(self, self.tasks, batch, draws)
        paired = step.pack()
        momentum, momentum_token_BPD = self.past.features(batch, paired)
        online = self.encode_online(batch, paired)
        cl, pending = step.contrast(online, momentum)
        words = None if self.mrtd_head is None else step.word_task(step.mlm_mask(), momentum_token_BPD)
        losses = {"cl": cl}
        if self.mae_decoder is not None:
            losses["mae"] = self.reconstruction_loss(batch, draws, online)
        if pending is not None:
            read = partial(_chunk_tokens, batch) if self.weights["attribute"] else None
            matched = step.match(online, words, pending, read=read)
            losses |= step.matching_losses(matched)
            if self.weights["attribute"]:
                losses["attribute"] = self.attribute_loss(batch, matched)
            if words is not None:
                losses |= step.word_losses(words, matched)
        return losses, {}

    def reconstruction_loss(self, batch: Batch, draws: Draws, online: Online) -> Tensor:
        """mae: the image rebuilt from a quarter of its patches and the paired caption."""
        noise_BN = draws["mae"].float()
        predicted_BNX, removed_BN = self.rebuild(online.patch_BND, online.paired, online.hidden_ND, noise_BN)
        pixel_BNX = patch_pixels(batch.image_BCHW, patch_px=self.online.image_encoder.patch_px)
        return reconstruction_loss(predicted_BNX, pixel_BNX, removed_BN)

    def rebuild(
        self, patch_BND: Tensor, paired: PackedCaptions, hidden_ND: Tensor, noise_BN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predicted pixels (B, N, p * p * 3) of every patch, and which patches were removed (B, N)."""
        assert self.mae_decoder is not None
        keep_BK, restore_BN = keep_patches(noise_BN.numpy(), mask_ratio=self.mae_mask_ratio)
        keep, restore = upload([keep_BK, restore_BN], self.device)
        keep, restore = keep.view(keep_BK.shape), restore.view(restore_BN.shape)
        kept_BPD = self.online.image_encoder.encode(patch_BND, keep_BK=keep)
        packing = paired.packing
        text_BLD = hidden_ND.index_select(0, packing.grid_SL.flatten()).view(*packing.grid_SL.shape, -1)
        bias = self._context_bias(paired)
        return self.mae_decoder(kept_BPD, restore, text_BLD, text_bias=bias), (restore >= keep.shape[1]).float()

    def attribute_loss(self, batch: Batch, matched: Matched) -> Tensor:
        """attribute: every chunk of the 3B rows through the matching head (or a head of its own)."""
        table = chunk_table(
            batch.paired.chunk_id_BL.numpy(),
            matched.negatives.captions(),
            has_negative_B=matched.negatives.has_B,
            group_pairs=batch.group_pairs,
            chunk_weight_BC=None if batch.paired.chunk_weight_BC is None else batch.paired.chunk_weight_BC.numpy(),
        )
        return self._attribute_loss(table, matched, batch.num_pairs)

    def _attribute_loss(self, table: ChunkTable, matched: Matched, num_pairs: int) -> Tensor:
        rows_MT = matched.crossed.rows(table.row_M[:, None], table.position_MT)
        index, label_M = upload([rows_MT, (table.row_M < num_pairs).astype(np.int64)], self.device)
        present_MT = _to(table.present_MT, self.device)
        vector_MD = chunk_vectors(matched.crossed.hidden_RD, index.view(rows_MT.shape), present_MT)
        head = self.itm_head if self.attribute_head is None else self.attribute_head
        return attribute_loss(head(vector_MD), matched_M=label_M, weight_M=_to(table.weight_M, self.device))

    def _context_bias(self, paired: PackedCaptions) -> Tensor | None:
        """Which text states the decoder sees: real tokens; all of a group's padding too in the official layout."""
        if self.padding == "packed":
            return paired.packing.key_bias_SL
        tokens_B = paired.layout.tokens_S
        if bool((tokens_B == tokens_B.max()).all()):
            return None
        absent_BL = np.arange(tokens_B.max()) >= tokens_B[:, None]
        return _to((absent_BL * np.float32(-10_000.0))[:, None, None, :], self.device)

    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """Some images rebuilt from a quarter of their patches and a caption; nothing without the decoder."""
        if self.mae_decoder is None:
            return []

        def rebuild(pairs: ShownPairs, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
            return self.reconstruct(pairs.images(self.device), pairs.captions, noise_BN)

        image = self.online.image_encoder
        return [show_reconstructions(reconstruct(shown, rebuild, grid=image.grid, patch_px=image.patch_px))]

    @torch.no_grad()
    def reconstruct(self, image_BCHW: Tensor, captions: Captions, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        """For reports: predicted pixels (B, N, p * p * 3), normalised as the input, and removed patches (B, N)."""
        patch_BND = self.online.image_encoder.patches(image_BCHW)
        paired = self.pack_captions(captions)
        hidden_ND = encode_text(self.online.text_encoder, paired)
        return self.rebuild(patch_BND, paired, hidden_ND, noise_BN)


def _chunk_tokens(batch: Batch, negatives: Negatives) -> Tokens:
    """Of the matching rows, the tokens that belong to a chunk."""
    rows, positions = (batch.paired.chunk_id_BL.numpy() > 0)[negatives.captions()].nonzero()
    return rows, positions


def _to(array: NDArray[np.float32], device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(array), device)


def build(config: Mars, *, image_px: tuple[int, int]) -> MarsMethod:
    """The method with random weights."""
    return MarsMethod(
        build_backbone(config, image_px=image_px),
        weights=asdict(config.weights),
        mae_depth=config.mae.depth,
        mae_heads=config.mae.heads,
        mae_mask_ratio=config.mae.mask_ratio,
        mlm_probability=config.mlm_probability,
        mrtd_probability=config.mrtd_probability,
        mlm_soft=config.mlm_soft,
        attribute_head=config.attribute_head,
    )

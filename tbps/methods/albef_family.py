"""What ALBEF, RaSa and MARS share: encoders with a momentum twin, queue, contrast, matching, embedding.

Shapes: B pairs in groups of g, N packed tokens, P image tokens, D width, E features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps.config.methods import AlbefWeights, MarsWeights, RasaWeights
from tbps.data.batch import Batch, Captions
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages
from tbps.nn.bert import Bert
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.momentum import advance, momentum_copy
from tbps.nn.packing import Layout, Packing, lay_out, upload
from tbps.nn.queue import FeatureQueue
from tbps.nn.vit import VisionTransformer
from tbps.objectives.itc import Contrast, Features, momentum_contrast

Padding = Literal["packed", "official"]


@dataclass(kw_only=True)
class PackedCaptions:
    """Captions of a batch laid out for the encoders."""

    layout: Layout
    packing: Packing
    token_id_N: Tensor
    """On the device."""


class AlbefFamily(nn.Module):
    """Encoders, twin, queue and the steps that every member takes. A member adds heads and `forward`."""

    def __init__(
        self,
        *,
        image_encoder: VisionTransformer,
        text_encoder: Bert,
        projection: int,
        word_head: bool,
        temperature: float,
        queue_pairs: int,
        momentum: float,
        alpha: float,
        momentum_dropout: bool,
        padding: Padding,
        cls_id: int,
        mask_id: int,
        weights: AlbefWeights | RasaWeights | MarsWeights,
    ) -> None:
        super().__init__()
        self.weights: Mapping[str, float] = asdict(weights)
        self.momentum, self.max_alpha, self.momentum_dropout = momentum, alpha, momentum_dropout
        self.padding, self.cls_id, self.mask_id = padding, cls_id, mask_id
        self.online = DualEncoder(
            image_encoder=image_encoder, text_encoder=text_encoder, projection=projection, word_head=word_head
        )
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.itm_head = nn.Linear(text_encoder.width, 2)
        self.queue = FeatureQueue(num_pairs=queue_pairs, width=projection)
        self.twin = momentum_copy(self.online)
        self._pending: list[tuple[Features, Tensor]] = []

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> AlbefFamily:
        """Training mode; the twin follows unless `momentum_dropout` is off."""
        super().train(mode)
        self.twin.train(mode and self.momentum_dropout)
        return self

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute blocks in backward: less memory, the same losses."""
        for module in [*self.online.modules(), *self.children()]:
            if hasattr(module, "checkpointing"):
                module.checkpointing = on

    def advance_momentum(self) -> None:
        """Move the twin one step towards the online weights."""
        advance(self.twin, self.online, momentum=self.momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        """Queue the features of the whole global batch in its order, advance the twin."""
        micro_batches, self._pending = self._pending, []
        local_RX = torch.cat(
            [
                torch.cat([features.image_BE, features.caption_BE, _as_float(identity_B)], dim=1)
                for features, identity_B in micro_batches
            ]
        )
        rows_RX = _gather(local_RX)
        width = (rows_RX.shape[1] - 2) // 2
        image_GE, caption_GE, identity_G2 = rows_RX.split([width, width, 2], dim=1)
        self.queue.push(image_GE, caption_GE, _as_integer(identity_G2))
        self.advance_momentum()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Online encoder: features and all tokens."""
        token_BPD = self.online.image_encoder(image_BCHW)
        return EmbeddedImages(feature_IE=self.online.image_feature(token_BPD), tokens_IPD=token_BPD)

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Online text encoder: features and, where the cross encoder starts from them, the packed states."""
        packed = self.pack_captions(captions, padded=False)
        hidden_ND = self.encode_text(self.online, packed)
        feature_QE = self.online.caption_feature(hidden_ND.index_select(0, packed.packing.first_S))
        full = self.online.text_encoder.full_cross_attention
        return EmbeddedCaptions(feature_QE=feature_QE, hidden_ND=None if full else hidden_ND)

    # -- steps of a forward pass -----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the method lives."""
        return self.temperature.device

    def alpha(self, batch: Batch) -> float:
        """Weight of soft targets: 0 to its full value over the first epoch (official schedule of ALBEF, RaSa, MARS)."""
        return self.max_alpha * min(1.0, batch.epoch)

    def pack_captions(self, captions: Captions, *, padded: bool, group_pairs: int = 0) -> PackedCaptions:
        """Lay captions out; `padded` also computes padding up to the longest caption of each group."""
        keys_B = np.asarray(captions.lengths, np.int64)
        tokens_B = _longest_of_group(keys_B, group_pairs) if padded else keys_B
        layout = lay_out(tokens_B, keys=keys_B)
        ids_N = captions.token_ids_BL.numpy()[layout.sequence_N, layout.position_N]
        return PackedCaptions(layout=layout, packing=layout.to(self.device), token_id_N=upload([ids_N], self.device)[0])

    def encode_text(self, encoder: DualEncoder, captions: PackedCaptions) -> Tensor:
        """Captions through the text encoder alone: (N, D)."""
        text = encoder.text_encoder
        return text.encode_text(text.embed(captions.token_id_N, captions.packing), captions.packing)

    @torch.no_grad()
    def momentum_features(self, batch: Batch, captions: PackedCaptions) -> tuple[Features, Tensor]:
        """The twin's unit features of the batch, and its image tokens."""
        token_BPD = self.twin.image_encoder(batch.second_image_BCHW)
        hidden_ND = self.encode_text(self.twin, captions)
        features = Features(
            image_BE=self.twin.image_feature(token_BPD),
            caption_BE=self.twin.caption_feature(hidden_ND.index_select(0, captions.packing.first_S)),
        )
        if self.training:
            self._pending.append((features, batch.identity_B))
        return features, token_BPD

    def contrast(self, batch: Batch, online: Features, momentum: Features, *, intra: bool) -> Contrast:
        """Contrast against group and queue, in float32."""
        with torch.autocast(self.device.type, enabled=False):
            return momentum_contrast(
                online,
                momentum,
                identity_B=batch.identity_B,
                queue=self.queue,
                temperature=self.temperature,
                alpha=self.alpha(batch),
                group_pairs=batch.group_pairs,
                intra=intra,
            )


@dataclass(kw_only=True)
class CrossSequences:
    """Sequences for one packed cross-encoder call: each shows one caption to one image."""

    source_S: NDArray[np.int64]
    """Row, in the joined source states, of each sequence's first token."""
    tokens_S: NDArray[np.int64]
    keys_S: NDArray[np.int64]
    image_S: NDArray[np.int64]

    @staticmethod
    def join(parts: Sequence[CrossSequences]) -> CrossSequences:
        """Several kinds of sequences, one after another."""
        return CrossSequences(
            source_S=np.concatenate([part.source_S for part in parts]),
            tokens_S=np.concatenate([part.tokens_S for part in parts]),
            keys_S=np.concatenate([part.keys_S for part in parts]),
            image_S=np.concatenate([part.image_S for part in parts]),
        )


def sequences(
    captions: PackedCaptions, *, offset: int, image: NDArray[np.int64], caption: NDArray[np.int64] | None = None
) -> CrossSequences:
    """Show caption[s] (default: s) to image[s]; `offset` is where these captions start in the joined source states."""
    layout = captions.layout
    rows = np.arange(len(layout.tokens_S)) if caption is None else caption
    return CrossSequences(
        source_S=offset + layout.start_S[rows],
        tokens_S=layout.tokens_S[rows],
        keys_S=layout.keys_S[rows],
        image_S=image,
    )


@dataclass(kw_only=True)
class CrossPass:
    """A packed cross-encoder call that was made."""

    layout: Layout
    packing: Packing
    hidden_ND: Tensor


def cross_encode(
    text: Bert, *, ids_N: Tensor, hidden_ND: Tensor | None, image_IPD: Tensor, shown: CrossSequences
) -> CrossPass:
    """Run every sequence through the cross encoder in one call.

    ids_N: token ids of the joined source captions; hidden_ND: their text states, needed unless the cross encoder starts
    from ids (full cross-attention); image_IPD (I, P, D) image tokens.
    """
    layout = lay_out(shown.tokens_S, keys=shown.keys_S, image=shown.image_S, num_images=len(image_IPD))
    packing = layout.to(ids_N.device)
    source_N = upload([shown.source_S[layout.sequence_N] + layout.position_N], ids_N.device)[0]
    if text.full_cross_attention:
        x_ND = text.embed(ids_N.index_select(0, source_N), packing)
    else:
        assert hidden_ND is not None
        x_ND = hidden_ND.index_select(0, source_N)
    return CrossPass(layout=layout, packing=packing, hidden_ND=text.encode_cross(x_ND, packing, image_IPD))


def _longest_of_group(length_B: NDArray[np.int64], group_pairs: int) -> NDArray[np.int64]:
    return np.repeat(length_B.reshape(-1, group_pairs).max(1), group_pairs)


def _gather(local_RX: Tensor) -> Tensor:
    """Rows of all ranks, in rank order."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local_RX
    out = local_RX.new_empty(dist.get_world_size() * len(local_RX), local_RX.shape[1])
    dist.all_gather_into_tensor(out, local_RX.contiguous())
    return out


def _as_float(identity_B: Tensor) -> Tensor:
    """int64 (B,) as the same bits in two float32 columns, so that one gather carries everything."""
    return identity_B.view(torch.float32).view(-1, 2)


def _as_integer(identity_B2: Tensor) -> Tensor:
    return identity_B2.contiguous().view(torch.int64).view(-1)

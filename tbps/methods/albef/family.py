"""What ALBEF, RaSa, MARS, AGA and LAIP share: encoders with a momentum encoder, queue, contrast, matching, embedding.

Shapes: B pairs in groups of g, N packed tokens, P image tokens, D width, E features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tbps.config.methods.aga import AgaWeights
from tbps.config.methods.albef import AlbefWeights
from tbps.config.methods.laip import LaipWeights
from tbps.config.methods.mars import MarsWeights
from tbps.config.methods.rasa import RasaWeights
from tbps.data.batch import Batch
from tbps.methods.albef.cross_calls import PackedCaptions
from tbps.methods.albef.pair_scores import CrossMatcher
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, Method
from tbps.nn.bert import Bert
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.mae_decoder import MaeDecoder
from tbps.nn.momentum import advance, momentum_copy
from tbps.nn.packing import Index, lay_out, upload
from tbps.nn.queue import EMPTY, FeatureQueue
from tbps.nn.vit import VisionTransformer
from tbps.objectives.itc import Contrast, Features, empty_share, momentum_contrast
from tbps.text.token_batch import Captions

Padding = Literal["packed", "official"]
EmptyQueue = Literal["counted", "ignored"]


class AlbefFamily(Method):
    """Encoders, twin, queue and the steps that every member takes. A member adds heads and `forward`."""

    TRAINERS: Mapping[str, tuple[str, ...]] = {
        "itm_head.": ("itm", "pitm", "attribute", "triplet"),
        "online.word_head.": ("mlm", "mpm"),
        "online.image_projection.": ("itc", "cl", "bidir"),
        "online.text_projection.": ("itc", "cl", "bidir"),
    }
    """Losses that train what other losses, hard negatives or scoring read too."""

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
        empty_queue: EmptyQueue,
        cls_id: int,
        mask_id: int,
        weights: AlbefWeights | LaipWeights | RasaWeights | MarsWeights | AgaWeights,
    ) -> None:
        super().__init__(weights=asdict(weights))
        self.momentum, self.max_alpha, self.momentum_dropout = momentum, alpha, momentum_dropout
        self.padding, self.cls_id, self.mask_id = padding, cls_id, mask_id
        self.online = DualEncoder(
            image_encoder=image_encoder, text_encoder=text_encoder, projection=projection, word_head=word_head
        )
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.itm_head = nn.Linear(text_encoder.width, 2)
        self.queue = FeatureQueue(num_pairs=queue_pairs, width=projection)
        self.momentum_encoder = momentum_copy(self.online)
        self.empty_queue = empty_queue
        self._pending: list[tuple[Features, Tensor]] = []
        self._first_empty: tuple[Tensor, Tensor] | None = None

    def matches(self) -> bool:
        """Whether a loss with a weight needs the cross encoder."""
        return any(self.weights.get(name) for name in ("itm", "pitm", "prd", "attribute", "mlm", "mrtd"))

    def rest_unused(self) -> None:
        """Stop gradients of what no loss reaches, so that data-parallel training does not wait for them."""
        if self.matches():
            return
        text = self.online.text_encoder
        unused: list[nn.Module] = [self.itm_head, *text.layers[text.fusion_layer :]]
        unused += [layer.cross_attention for layer in text.layers if layer.cross_attention is not None]  # type: ignore[misc]
        for module in unused:
            module.requires_grad_(False)

    def untrained(self, *, reranks: bool) -> list[str]:
        """Parameters that no loss with a weight moves, though a loss or scoring reads them or they are carried along.

        reranks: the matching head will score.
        """
        resting = tuple(head for head, losses in self.TRAINERS.items() if not any(self.weights.get(loss) for loss in losses))
        # What rests for want of a matching loss, only the matching head's scores would read.
        unread = ("prd_head.", *(() if reranks else ("itm_head.", "online.text_encoder.")), "momentum_encoder.")
        return [
            name
            for name, parameter in self.named_parameters()
            if (not parameter.requires_grad or name.startswith(resting)) and not name.startswith(unread)
        ]

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> AlbefFamily:
        """Training mode; the momentum encoder follows unless `momentum_dropout` is off."""
        super().train(mode)
        self.momentum_encoder.train(mode and self.momentum_dropout)
        return self

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute blocks in backward: less memory, the same losses."""
        for name, module in self.named_modules():
            if isinstance(module, VisionTransformer | Bert | MaeDecoder) and not name.startswith("momentum_encoder."):
                module.checkpointing = on

    def before_first_step(self) -> None:
        """The official code advances the momentum encoder inside forward, so its first step sees one that moved once."""
        self.advance_momentum()

    def advance_momentum(self) -> None:
        """Move the momentum encoder one step towards the online weights."""
        advance(self.momentum_encoder, self.online, momentum=self.momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        """Queue the features of the whole global batch in its order, advance the momentum encoder."""
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

    def first_step_in_words(self) -> str:
        """How much of the queue was empty in the first step since the start, and what that did; empty if nothing was."""
        if self._first_empty is None:
            return ""
        number, share = int(self._first_empty[0]), float(self._first_empty[1])
        places = f"{number} of the queue's {len(self.queue.identity_K)} places were empty in the first step"
        if not number:
            return ""
        if self.empty_queue == "ignored":
            return f"{places}: left out of the contrast until they are filled"
        return (
            f"{places} and took {100 * share:.0f} % of its softmax over captions, as in the official code;"
            " --method.empty-queue ignored leaves them out"
        )

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Online encoder: features and all tokens."""
        token_BPD = self.online.image_encoder(image_BCHW)
        return EmbeddedImages(feature_IE=self.online.image_feature(token_BPD), tokens_IPD=token_BPD)

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Online text encoder: features and, where the cross encoder starts from them, the packed states."""
        packed = self.pack_captions(captions)
        hidden_ND = self.encode_text(self.online, packed)
        feature_QE = self.online.caption_feature(hidden_ND.index_select(0, packed.packing.first_S))
        full = self.online.text_encoder.full_cross_attention
        return EmbeddedCaptions(feature_QE=feature_QE, hidden_ND=None if full else hidden_ND)

    def matcher(self) -> CrossMatcher:
        """The matching head on the online cross encoder."""
        return CrossMatcher(
            text=self.online.text_encoder, itm_head=self.itm_head, pack=self.pack_captions, device=self.device
        )

    # -- steps of a forward pass -----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the method lives."""
        return self.temperature.device

    def alpha(self, batch: Batch) -> float:
        """Weight of soft targets: 0 to its full value over the first epoch (official schedule of ALBEF, RaSa, MARS)."""
        return self.max_alpha * min(1.0, batch.epoch)

    def pack_captions(self, captions: Captions, *, group: Index | None = None, padded: bool = False) -> PackedCaptions:
        """Lay captions out; group: of each caption; `padded` also computes padding up to the longest of each group."""
        keys_B = np.asarray(captions.lengths, np.int64)
        tokens_B = _longest_of_group(keys_B, group) if padded else keys_B
        layout = lay_out(tokens_B, keys=keys_B, group=group)
        ids_N = captions.token_ids_BL.numpy()[layout.sequence_N, layout.position_N]
        return PackedCaptions(layout=layout, packing=layout.to(self.device), token_id_N=upload([ids_N], self.device)[0])

    def encode_text(self, encoder: DualEncoder, captions: PackedCaptions) -> Tensor:
        """Captions through the text encoder alone: (N, D)."""
        text = encoder.text_encoder
        return text.encode_text(text.embed(captions.token_id_N, captions.packing), captions.packing)

    @torch.no_grad()
    def momentum_features(
        self, batch: Batch, captions: PackedCaptions, *, cls_BD: Tensor | None = None
    ) -> tuple[Features, Tensor]:
        """The momentum encoder's unit features of the batch and its image tokens; `cls_BD`: [CLS] states of its text."""
        assert batch.second_image_BCHW is not None, "its config asks for a second view"
        token_BPD = self.momentum_encoder.image_encoder(batch.second_image_BCHW)
        if cls_BD is None:
            cls_BD = self.encode_text(self.momentum_encoder, captions).index_select(0, captions.packing.first_S)
        features = Features(
            image_BE=self.momentum_encoder.image_feature(token_BPD), caption_BE=self.momentum_encoder.caption_feature(cls_BD)
        )
        if self.training:
            self._pending.append((features, batch.identity_B))
        return features, token_BPD

    def contrast(self, batch: Batch, online: Features, momentum: Features, *, intra: bool) -> Contrast:
        """Contrast against group and queue, in float32."""
        with torch.autocast(self.device.type, enabled=False):
            found = momentum_contrast(
                online,
                momentum,
                identity_B=batch.identity_B,
                queue=self.queue,
                temperature=self.temperature,
                alpha=self.alpha(batch),
                group_pairs=batch.group_pairs,
                intra=intra,
                ignore_empty=self.empty_queue == "ignored",
            )
            if self.training and self._first_empty is None:  # what `first_step_in_words` tells, read when it is asked
                identity_K = self.queue.identity_K
                self._first_empty = (identity_K == EMPTY).sum(), empty_share(found.i2t_BC, identity_K)
        return found


def _longest_of_group(length_B: Index, group_B: Index | None) -> Index:
    if group_B is None:
        return np.full_like(length_B, length_B.max())
    _, place_B = np.unique(group_B, return_inverse=True)
    longest_G = np.zeros(place_B.max() + 1, np.int64)
    np.maximum.at(longest_G, place_B, length_B)
    return longest_G[place_B]


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

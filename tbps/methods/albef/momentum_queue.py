"""A momentum encoder and the queue of its features: what the contrast of ALBEF and its descendants reads of the past.

Shapes: B pairs, P image tokens, D width, E features, R pairs of this rank in a step, G of all ranks, X columns.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tbps.data.batch import Batch
from tbps.methods.albef.cross_calls import PackedCaptions, encode_text_cls
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.momentum import advance
from tbps.nn.queue import EMPTY, FeatureQueue
from tbps.objectives.itc import Contrast, Features, empty_share, momentum_contrast


class MomentumQueue:
    """Held by a method. The modules are registered by the method, so that their weights keep their names in checkpoints."""

    def __init__(
        self,
        *,
        online: DualEncoder,
        momentum_encoder: DualEncoder,
        queue: FeatureQueue,
        momentum: float,
        alpha: float,
        ignore_empty: bool,
    ) -> None:
        self.online, self.momentum_encoder, self.queue = online, momentum_encoder, queue
        self.momentum, self.max_alpha, self.ignore_empty = momentum, alpha, ignore_empty
        self.pending: list[tuple[Features, Tensor]] = []
        """Features and identities of a step's micro-batches, until `after_step` queues them."""
        self.first_empty: tuple[Tensor, Tensor] | None = None
        """Empty places of the first step since the start, and their share of its softmax; read when it is asked for."""

    def alpha(self, batch: Batch) -> float:
        """Weight of soft targets: 0 to its full value over the first epoch (official schedule of ALBEF, RaSa, MARS)."""
        return self.max_alpha * min(1.0, batch.epoch)

    @torch.no_grad()
    def features(self, batch: Batch, captions: PackedCaptions, *, cls_BD: Tensor | None = None) -> tuple[Features, Tensor]:
        """The momentum encoder's unit features and its image tokens (B, P, D); cls_BD: [CLS] states of its text, if known.

        A momentum encoder without cross encoder gives [CLS] alone of its image tokens: no one reads the others. In training
        mode the features wait for the queue.
        """
        assert batch.second_image_BCHW is not None, "its config asks for a second view"
        encoder = self.momentum_encoder
        text = encoder.text_encoder
        token_BPD = encoder.image_encoder(batch.second_image_BCHW, first_only=not text.crosses)
        if cls_BD is None:
            cls_BD = encode_text_cls(text, captions)
        found = Features(image_BE=encoder.image_feature(token_BPD), caption_BE=encoder.caption_feature(cls_BD))
        if self.online.training:
            self.pending.append((found, batch.identity_B))
        return found, token_BPD

    def contrast(self, batch: Batch, online: Features, momentum: Features, *, temperature: Tensor, intra: bool) -> Contrast:
        """Contrast against group and queue, in float32; intra: also of images with images, captions with captions."""
        with torch.autocast(temperature.device.type, enabled=False):
            found = momentum_contrast(
                online,
                momentum,
                identity_B=batch.identity_B,
                queue=self.queue,
                temperature=temperature,
                alpha=self.alpha(batch),
                group_pairs=batch.group_pairs,
                intra=intra,
                ignore_empty=self.ignore_empty,
            )
            if self.online.training and self.first_empty is None:
                identity_K = self.queue.identity_K
                self.first_empty = (identity_K == EMPTY).sum(), empty_share(found.i2t_BC, identity_K)
        return found

    def advance(self) -> None:
        """Move the momentum encoder one step towards the online weights."""
        advance(self.momentum_encoder, self.online, momentum=self.momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        """Queue the features of the whole global batch in its order, advance the momentum encoder."""
        micro_batches, self.pending = self.pending, []
        local_RX = torch.cat(
            [
                torch.cat([features.image_BE, features.caption_BE, _as_float(identity_B)], dim=1)
                for features, identity_B in micro_batches
            ]
        )
        rows_GX = _gather(local_RX)
        width = (rows_GX.shape[1] - 2) // 2
        image_GE, caption_GE, identity_G2 = rows_GX.split([width, width, 2], dim=1)
        self.queue.push(image_GE, caption_GE, _as_integer(identity_G2))
        self.advance()

    def first_step_in_words(self) -> str:
        """How much of the queue was empty in the first step since the start, and what that did; empty if nothing was."""
        if self.first_empty is None:
            return ""
        number, share = int(self.first_empty[0]), float(self.first_empty[1])
        places = f"{number} of the queue's {len(self.queue.identity_K)} places were empty in the first step"
        if not number:
            return ""
        if self.ignore_empty:
            return f"{places}: left out of the contrast until they are filled"
        return (
            f"{places} and took {100 * share:.0f} % of its softmax over captions, as in the official code;"
            " --method.empty-queue ignored leaves them out"
        )


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

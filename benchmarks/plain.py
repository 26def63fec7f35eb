"""A plain training step and re-ranking of RaSa and MARS: the baseline that ours must equal, and is timed against.

It does what the published code does: a cross-encoder pass each for positives, both kinds of negatives, MLM and m-RTD, and
two of the momentum encoder; the vocabulary head at every position; the queue cloned and joined to the batch; boolean
masks; a Python loop over rows and chunks; one caption re-ranked at a time. Two deliberate differences keep the losses equal
to our defaults:
MLM's soft term is normalised over words (published: over positions), and the image decoder does not see padding (published:
it does).
Shapes: B pairs (one group), L tokens of the longest caption, V words, C = B + queue candidates, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from plain_layers import PlainDecoder, PlainEncoder, Weights, linear
from torch import Tensor, nn

from tbps.data.batch import Batch, Draws
from tbps.objectives.masking import TokenMask, token_mask
from tbps.text.token_batch import Captions


class PlainStep:
    """forward(batch, draws) of a method, on the same weights."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.weights = Weights(method)
        self.online = PlainEncoder(method, self.weights, "online")
        self.momentum_encoder = PlainEncoder(method, self.weights, "momentum_encoder")
        decoder = getattr(method, "mae_decoder", None)
        self.decoder = None if decoder is None else PlainDecoder(decoder, self.weights)

    def __call__(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The named losses."""
        assert batch.group_pairs == batch.num_pairs, "the plain step knows one group only"
        paired_ids, paired_mask = _padded(batch.paired, self.method.device)
        patch_BND = self.online.patches(batch.image_BCHW)
        image_BPD = self.online.encode_image(patch_BND)
        text_BLD = self.online.encode_text(paired_ids, paired_mask)
        with torch.no_grad():
            momentum_BPD = self.momentum_encoder.encode_image(self.momentum_encoder.patches(batch.second_image_BCHW))
            momentum_BLD = self.momentum_encoder.encode_text(paired_ids, paired_mask)
        losses = {}
        losses["cl"], i2t_BC, t2i_BC = self._contrast(batch, image_BPD, text_BLD, momentum_BPD, momentum_BLD)
        negatives = self._negatives(batch, draws, i2t_BC, t2i_BC)
        hidden_RLD, caption_R = self._match(paired_ids, paired_mask, text_BLD, image_BPD, negatives)
        label_R = torch.cat([torch.ones(batch.num_pairs), torch.zeros(2 * batch.num_pairs)]).long().to(self.method.device)
        losses["pitm"] = F.cross_entropy(self._head("itm_head", hidden_RLD[:, 0]), label_R)
        losses["prd"] = F.cross_entropy(self._head("prd_head", hidden_RLD[: batch.num_pairs, 0]), batch.replaced_B)
        if self.decoder is not None:
            losses["attribute"] = self._attributes(batch, hidden_RLD, caption_R)
            losses["mae"] = self._mae(batch, draws, patch_BND, text_BLD, paired_mask)
        losses["mlm"] = self._mlm(batch, self._token_mask(draws, "mlm"), image_BPD, momentum_BPD)
        losses["mrtd"] = self._mrtd(batch, draws, image_BPD, momentum_BPD)
        return losses

    def _contrast(
        self, batch: Batch, image_BPD: Tensor, text_BLD: Tensor, momentum_BPD: Tensor, momentum_BLD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        queue, temperature, alpha = self.method.queue, self.weights("temperature"), self.method.past.alpha(batch)
        online = self.online.feature("image", image_BPD[:, 0]), self.online.feature("text", text_BLD[:, 0])
        with torch.no_grad():
            twin = (
                self.momentum_encoder.feature("image", momentum_BPD[:, 0]),
                self.momentum_encoder.feature("text", momentum_BLD[:, 0]),
            )
            keys = [
                torch.cat([feature_BE.T, queued_KE.clone().T], dim=1)
                for feature_BE, queued_KE in zip(twin, (queue.image_KE, queue.caption_KE))
            ]
            identity_C = torch.cat([batch.identity_B, queue.identity_K.clone()])
            same_BC = (batch.identity_B[:, None] == identity_C).float()
            target_BC = same_BC / same_BC.sum(1, keepdim=True)
        losses, logits = [], {}
        for row in (0, 1):
            for column in (0, 1):
                with torch.no_grad():
                    soft_BC = F.softmax(twin[row] @ keys[column] / temperature, dim=1)
                    soft_BC = alpha * soft_BC + (1 - alpha) * target_BC
                logit_BC = online[row] @ keys[column] / temperature
                losses.append(-torch.sum(F.log_softmax(logit_BC, dim=1) * soft_BC, dim=1).mean())
                logits[row, column] = logit_BC
        return torch.stack(losses).sum() / 4, logits[0, 1], logits[1, 0]

    @torch.no_grad()
    def _negatives(self, batch: Batch, draws: Draws, i2t_BC: Tensor, t2i_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the negative image of each caption and of the negative caption of each image."""
        if draws.recorded.keys() >= {"negative_image", "negative_caption"}:
            return draws.recorded["negative_image"], draws.recorded["negative_caption"]
        drawn = []
        for logit_BC in (t2i_BC, i2t_BC):
            weight_BB = F.softmax(logit_BC[:, : batch.num_pairs], dim=1)
            weight_BB.masked_fill_(batch.identity_B[:, None] == batch.identity_B, 0)
            drawn.append(torch.multinomial(weight_BB, 1).flatten())
        return drawn[0], drawn[1]

    def _match(
        self, ids_BL: Tensor, mask_BL: Tensor, text_BLD: Tensor, image_BPD: Tensor, negatives: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """States of the 3B matching rows, and the caption of each."""
        image_B, caption_B = negatives
        positive_BLD = self.online.encode_cross(ids_BL, text_BLD, mask_BL, image_BPD)
        ids_RL, mask_RL = torch.cat([ids_BL, ids_BL[caption_B]]), torch.cat([mask_BL, mask_BL[caption_B]])
        text_RLD, image_RPD = torch.cat([text_BLD, text_BLD[caption_B]]), torch.cat([image_BPD[image_B], image_BPD])
        negative_RLD = self.online.encode_cross(ids_RL, text_RLD, mask_RL, image_RPD)
        own = torch.arange(len(ids_BL), device=ids_BL.device)
        return torch.cat([positive_BLD, negative_RLD]), torch.cat([own, own, caption_B])

    def _attributes(self, batch: Batch, hidden_RLD: Tensor, caption_R: Tensor) -> Tensor:
        total, counted = hidden_RLD.new_zeros(()), 0
        chunk_RL = batch.paired.chunk_id_BL.to(hidden_RLD.device)[caption_R, : hidden_RLD.shape[1]]
        for row, chunk_L in enumerate(chunk_RL):
            label_1 = torch.tensor([int(row < batch.num_pairs)], device=hidden_RLD.device)
            last = int(chunk_L.max().item())
            losses = []
            for number in range(1, last + 1):
                vector_D = hidden_RLD[row][chunk_L == number].mean(0)
                losses.append(F.cross_entropy(self._head("itm_head", vector_D[None]), label_1))
            if losses:
                total, counted = total + torch.stack(losses).mean(), counted + 1
        return total / max(counted, 1)

    def _mae(self, batch: Batch, draws: Draws, patch_BND: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        assert self.decoder is not None
        kept = int(patch_BND.shape[1] * (1 - self.method.mae_mask_ratio))
        order_BN = torch.argsort(draws["mae"].float().to(patch_BND.device), dim=1, stable=True)
        restore_BN = torch.argsort(order_BN, dim=1)
        keep_BKD = order_BN[:, :kept, None].repeat(1, 1, patch_BND.shape[2])
        kept_BPD = self.online.encode_image(torch.gather(self.online.patches(batch.image_BCHW), 1, keep_BKD))
        predicted_BNX = self.decoder(kept_BPD, restore_BN, text_BLD, mask_BL)
        pixel_BNX = self._pixels(batch.image_BCHW)
        error_BN = ((predicted_BNX - pixel_BNX) ** 2).mean(-1)
        removed_BN = (restore_BN >= kept).float()
        return (error_BN * removed_BN).sum() / removed_BN.sum()

    def _pixels(self, image_BCHW: Tensor) -> Tensor:
        size, _, height, width = image_BCHW.shape
        side = self.method.online.image_encoder.patch_px
        blocks = image_BCHW.reshape(size, 3, height // side, side, width // side, side)
        return torch.einsum("nchpwq->nhwpqc", blocks).reshape(size, -1, side * side * 3)

    def _mlm(self, batch: Batch, mask: TokenMask, image_BPD: Tensor, momentum_BPD: Tensor) -> Tensor:
        ids_BL, mask_BL = _padded(batch.own, image_BPD.device)
        masked_BL, label_BL = self._mask(ids_BL, mask)
        with torch.no_grad():
            momentum_BLV = self.momentum_encoder.word_logits(
                self.momentum_encoder.encode_cross(masked_BL, None, mask_BL, momentum_BPD)
            )
        logit_BLV = self.online.word_logits(self.online.encode_cross(masked_BL, None, mask_BL, image_BPD))
        hard = F.cross_entropy(logit_BLV.flatten(0, 1), label_BL.flatten(), ignore_index=-100)
        soft_BL = -torch.sum(F.log_softmax(logit_BLV, dim=2) * F.softmax(momentum_BLV, dim=2), dim=2)
        alpha = self.method.past.alpha(batch)
        return (1 - alpha) * hard + alpha * soft_BL[label_BL != -100].mean()

    def _mrtd(self, batch: Batch, draws: Draws, image_BPD: Tensor, momentum_BPD: Tensor) -> Tensor:
        ids_BL, mask_BL = _padded(batch.own, image_BPD.device)
        cls_id = self.method.cls_id
        with torch.no_grad():
            masked_BL, _ = self._mask(ids_BL, self._token_mask(draws, "mrtd"))
            momentum_BLV = self.momentum_encoder.word_logits(
                self.momentum_encoder.encode_cross(masked_BL, None, mask_BL, momentum_BPD)
            )
            probability_NV = F.softmax(momentum_BLV, dim=2).flatten(0, 1)
            if "words" not in draws.recorded:
                word_BL = torch.multinomial(probability_NV, 1).view_as(ids_BL)
            else:
                word_BL = draws.recorded["words"][:, : ids_BL.shape[1]].clone().to(ids_BL.device)
            word_BL[:, 0] = cls_id
            word_BL = word_BL * mask_BL
            label_BL = (word_BL != ids_BL).long()
            label_BL[word_BL == 0] = -100
            label_BL[word_BL == cls_id] = -100
        hidden_BLD = self.online.encode_cross(word_BL, None, mask_BL, image_BPD)
        return F.cross_entropy(self._head("mrtd_head", hidden_BLD).flatten(0, 1), label_BL.flatten(), ignore_index=-100)

    def _token_mask(self, draws: Draws, name: str) -> TokenMask:
        probability = {"mlm": self.method.tasks.mlm_probability, "mrtd": self.method.tasks.mrtd_probability}[name]
        words = range(self.method.online.text_encoder.vocabulary_size)
        return token_mask(draws[name], probability=probability, words=words)

    def _mask(self, ids_BL: Tensor, mask: TokenMask) -> tuple[Tensor, Tensor]:
        """Masked ids, and labels: the old id where chosen, else -100."""
        fields = (mask.select_BL, mask.mask_BL, mask.random_BL, mask.word_BL)
        select, to_mask, to_random, word = (field[:, : ids_BL.shape[1]].to(ids_BL.device) for field in fields)
        masked_BL, label_BL, select = ids_BL.clone(), ids_BL.clone(), select.clone()
        select[ids_BL == 0] = False
        select[ids_BL == self.method.cls_id] = False
        label_BL[~select] = -100
        to_mask = to_mask & select
        masked_BL[to_mask] = self.method.mask_id
        to_random = to_random & select & ~to_mask
        masked_BL[to_random] = word[to_random]
        return masked_BL, label_BL

    def _head(self, name: str, x: Tensor) -> Tensor:
        return linear(self.weights, name, x)


@torch.no_grad()
def plain_momentum(momentum_encoder: nn.Module, online: nn.Module, momentum: float) -> None:
    """theta_m = m theta_m + (1 - m) theta, a new tensor for each parameter."""
    for slow, fast in zip(momentum_encoder.parameters(), online.parameters()):
        slow.data = slow.data * momentum + fast.data * (1.0 - momentum)


@torch.no_grad()
def plain_rerank(
    method: Any, tokens_IPD: Tensor, captions: Captions, candidate_QK: Tensor, *, max_tokens: int, rows: list[int]
) -> Tensor:
    """Matched logits (len(rows), K) of captions `rows`, one at a time, padded to `max_tokens`.

    tokens_IPD (I, P, D) on the host, as the published code keeps them: every caption gathers and copies its K images.
    """
    encoder, weights = PlainEncoder(method, Weights(method), "online"), Weights(method)
    ids_QL = torch.zeros(len(captions.lengths), max_tokens, dtype=torch.int64)
    ids_QL[:, : captions.token_ids_BL.shape[1]] = captions.token_ids_BL[:, :max_tokens]
    mask_QL = torch.from_numpy(np.arange(max_tokens) < np.array(captions.lengths)[:, None]).long()
    ids_QL, mask_QL = ids_QL.to(method.device), mask_QL.to(method.device)
    scores = []
    for row in rows:
        image_KPD = tokens_IPD[candidate_QK[row]].to(method.device)
        count = len(image_KPD)
        ids_1L, mask_1L = ids_QL[row : row + 1], mask_QL[row : row + 1]
        hidden_1LD = None if method.online.text_encoder.full_cross_attention else encoder.encode_text(ids_1L, mask_1L)
        hidden_KLD = encoder.encode_cross(
            ids_1L.repeat(count, 1),
            None if hidden_1LD is None else hidden_1LD.repeat(count, 1, 1),
            mask_1L.repeat(count, 1),
            image_KPD,
        )
        scores.append(linear(weights, "itm_head", hidden_KLD[:, 0])[:, 1])
    return torch.stack(scores).cpu()


def _padded(captions: Captions, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, L), L the longest caption."""
    longest = max(captions.lengths)
    mask_BL = torch.from_numpy(np.arange(longest) < np.array(captions.lengths)[:, None]).long()
    return captions.token_ids_BL[:, :longest].to(device), mask_BL.to(device)

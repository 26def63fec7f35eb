"""RaSa: relation- and sensitivity-aware representation learning (arXiv 2305.13653; Flame-Chasers/RaSa).

Shapes: B pairs, N packed tokens, M masked positions, V words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tbps.config.methods.aga import AgaWeights
from tbps.config.methods.mars import MarsWeights
from tbps.config.methods.rasa import Rasa, RasaWeights
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.building import family_arguments
from tbps.methods.albef.cross_calls import CrossPass, CrossSequences, PackedCaptions, cross_encode, sequences
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.pending_negatives import Negatives, PendingNegatives
from tbps.methods.method import LossesAndNumbers
from tbps.nn.bert import PAD_ID
from tbps.nn.packing import Index, upload
from tbps.objectives.itc import Contrast, Features
from tbps.objectives.itm import matching_loss
from tbps.objectives.masking import TokenMask, mask_tokens, token_mask
from tbps.objectives.mlm import log_softmax_over_positions, masked_word_loss
from tbps.objectives.mrtd import corrupt, draw_words, replaced_token_loss
from tbps.objectives.prd import relation_loss


@dataclass(kw_only=True)
class Online:
    """The online encoders' output of a step."""

    patch_BND: Tensor
    """Embedded patches, before the encoder."""
    token_BPD: Tensor
    paired: PackedCaptions
    hidden_ND: Tensor
    """Text states of the paired captions."""
    features: Features


@dataclass(kw_only=True)
class WordTask:
    """Own captions with MLM masks, with m-RTD words, and what the momentum encoder says of them."""

    own: PackedCaptions
    masked: PackedCaptions
    """Own captions after MLM masking."""
    chosen: tuple[Index, Index]
    """Caption and position of each MLM position."""
    label_M: Tensor
    momentum_logit_MV: Tensor
    generator: PackedCaptions
    """Own captions after m-RTD masking."""
    corrupted: PackedCaptions
    """m-RTD input: the generator's words."""


@dataclass(kw_only=True)
class Matched:
    """The student's packed cross-encoder call: 3B matching rows, then masked, then corrupted captions."""

    crossed: CrossPass
    negatives: Negatives
    pending: PendingNegatives

    def rows(self, kind: int, caption: Index, position: Index) -> Index:
        """Packed rows of tokens of captions shown as `kind`: 0-2 matching, 3 masked, 4 corrupted."""
        return self.crossed.layout.rows(kind * len(self.negatives.image_B) + caption, position)


class RasaMethod(AlbefFamily):
    """Losses: cl = (i2t + t2i + i2i + t2t) / 4, pitm, mlm, prd, mrtd."""

    def __init__(
        self,
        *,
        weights: RasaWeights | MarsWeights | AgaWeights,
        mlm_probability: float,
        mrtd_probability: float,
        mlm_soft: Literal["vocabulary", "sequence"],
        **family: Any,
    ) -> None:
        predicts_words = bool(weights.mlm or weights.mrtd)
        super().__init__(word_head=predicts_words, weights=weights, **family)
        self.mlm_soft, self.mlm_probability, self.mrtd_probability = mlm_soft, mlm_probability, mrtd_probability
        width = self.online.text_encoder.width
        self.prd_head = nn.Linear(width, 2)
        self.mrtd_head: nn.Linear | None = nn.Linear(width, 2) if predicts_words else None
        self.rest_unused()

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class. The order of work hides the wait for the hard negatives."""
        padded = self.padding == "official"
        paired = self.pack_captions(batch.paired, group=batch.group_B, padded=padded)
        momentum, momentum_token_BPD = self.momentum_features(batch, paired)
        online = self.encode_online(batch, paired)
        contrast, pending = self.contrast_step(batch, draws, online, momentum)
        words = None
        if self.mrtd_head is not None:
            words = self.word_task(batch, draws, self.mlm_mask(draws), momentum_token_BPD)
        return self.losses(batch, draws, online, contrast, pending, words), {}

    def contrast_step(
        self, batch: Batch, draws: Draws, online: Online, momentum: Features
    ) -> tuple[Contrast, PendingNegatives | None]:
        """The contrasts, and the hard negatives that they lead to; None where nothing is matched."""
        contrast = self.contrast(batch, online.features, momentum, intra=True)
        if not self.matches():
            return contrast, None
        pending = PendingNegatives(
            i2t_BC=contrast.i2t_BC,
            t2i_BC=contrast.t2i_BC,
            identity_B=batch.identity_B,
            group_pairs=batch.group_pairs,
            draws=draws,
        )
        return contrast, pending

    def losses(
        self,
        batch: Batch,
        draws: Draws,
        online: Online,
        contrast: Contrast,
        pending: PendingNegatives | None,
        words: WordTask | None,
    ) -> dict[str, Tensor]:
        """Every loss, once all that goes into the cross encoder is known."""
        losses = {"cl": sum(contrast.loss.values(), start=torch.zeros((), device=self.device)) / 4}
        losses |= self.extra_losses(batch, draws, online)
        if pending is None:
            return losses
        matched = self.match_step(batch, online, words, pending)
        losses |= self.matching_losses(batch, matched)
        return losses if words is None else losses | self.word_losses(batch, words, matched)

    def rest_unused(self) -> None:
        """As the family's, and the relation head."""
        super().rest_unused()
        if not self.matches():
            self.prd_head.requires_grad_(False)

    def extra_losses(self, batch: Batch, draws: Draws, online: Online) -> dict[str, Tensor]:
        """Losses that need no cross encoder; a member that builds on RaSa adds its own here."""
        return {}

    def encode_online(self, batch: Batch, paired: PackedCaptions) -> Online:
        """Images and paired captions through the online encoders, once."""
        patch_BND = self.online.image_encoder.patches(batch.image_BCHW)
        token_BPD = self.online.image_encoder.encode(patch_BND)
        hidden_ND = self.encode_text(self.online, paired)
        features = Features(
            image_BE=self.online.image_feature(token_BPD),
            caption_BE=self.online.caption_feature(hidden_ND.index_select(0, paired.packing.first_S)),
        )
        return Online(patch_BND=patch_BND, token_BPD=token_BPD, paired=paired, hidden_ND=hidden_ND, features=features)

    def mlm_mask(self, draws: Draws) -> TokenMask:
        """What MLM masks: words chosen at random."""
        return token_mask(draws["mlm"], probability=self.mlm_probability, words=self._all_words())

    def _all_words(self) -> range:
        return range(self.online.text_encoder.vocabulary_size)

    @torch.no_grad()
    def word_task(self, batch: Batch, draws: Draws, mlm: TokenMask, momentum_token_BPD: Tensor) -> WordTask:
        """Mask the own captions twice, one call of the momentum encoder for both, its soft labels and sampled words."""
        padded = self.padding == "official"
        own = self.pack_captions(batch.own, group=batch.group_B, padded=padded)
        ids_BL = batch.own.token_ids_BL
        mlm_BL, chosen_BL = mask_tokens(batch.own, mlm, special_ids=(self.cls_id,), mask_id=self.mask_id)
        mrtd = token_mask(draws["mrtd"], probability=self.mrtd_probability, words=self._all_words())
        mrtd_BL, _ = mask_tokens(batch.own, mrtd, special_ids=(self.cls_id,), mask_id=self.mask_id)
        layout = own.layout
        place_N = (layout.sequence_N, layout.position_N)
        chosen_rows, chosen_places = chosen_BL.numpy().nonzero()
        chosen = (chosen_rows, chosen_places)
        mlm_N, mrtd_N, label_M = upload(
            [mlm_BL.numpy()[place_N], mrtd_BL.numpy()[place_N], ids_BL.numpy()[chosen]], self.device
        )
        masked = PackedCaptions(layout=layout, packing=own.packing, token_id_N=mlm_N)
        generator = PackedCaptions(layout=layout, packing=own.packing, token_id_N=mrtd_N)
        crossed = self.cross_captions(self.momentum_encoder, [masked, generator], momentum_token_BPD, group_B=batch.group_B)
        rows_M = crossed.layout.rows(*chosen)
        rows_N = crossed.layout.rows(batch.num_pairs + place_N[0], place_N[1])
        index_M, index_N, real_N = upload(
            [rows_M, rows_N, (place_N[1] < layout.keys_S[place_N[0]]).astype(np.int64)], self.device
        )
        momentum_logit_MV = self.momentum_encoder.word_logits(crossed.hidden_ND.index_select(0, index_M))
        word_N = self._words(draws, place_N, crossed.hidden_ND.index_select(0, index_N))
        corrupted_N = corrupt(word_N, position_N=own.packing.position_N, real_N=real_N, start_id=self.cls_id, pad_id=PAD_ID)
        corrupted = PackedCaptions(layout=layout, packing=own.packing, token_id_N=corrupted_N)
        return WordTask(
            own=own,
            masked=masked,
            generator=generator,
            chosen=chosen,
            label_M=label_M,
            momentum_logit_MV=momentum_logit_MV,
            corrupted=corrupted,
        )

    def cross_captions(self, encoder: Any, kinds: list[PackedCaptions], image_BPD: Tensor, *, group_B: Index) -> CrossPass:
        """Several variants of the captions of a batch, each with its own image, in one packed call."""
        ids_N, hidden_ND, offsets = self.sources(encoder, kinds)
        own = np.arange(len(image_BPD))
        shown = CrossSequences.join(
            [sequences(kind, offset=offset, image=own) for kind, offset in zip(kinds, offsets, strict=True)]
        )
        return cross_encode(
            encoder.text_encoder,
            ids_N=ids_N,
            hidden_ND=hidden_ND,
            image_IPD=image_BPD,
            shown=shown,
            group_I=group_B,
        )

    def sources(self, encoder: Any, kinds: list[PackedCaptions]) -> tuple[Tensor, Tensor | None, list[int]]:
        """Joined token ids of several packed captions, their text states where needed, and where each starts."""
        ids_N = torch.cat([kind.token_id_N for kind in kinds])
        offsets = np.cumsum([0, *(len(kind.token_id_N) for kind in kinds)])[:-1].tolist()
        if encoder.text_encoder.full_cross_attention:
            return ids_N, None, offsets
        return ids_N, torch.cat([self.encode_text(encoder, kind) for kind in kinds]), offsets

    def match_step(self, batch: Batch, online: Online, words: WordTask | None, pending: PendingNegatives) -> Matched:
        """The one packed call of the student: positives, hard negatives, masked and corrupted captions."""
        ids_N, hidden_ND, offsets = online.paired.token_id_N, online.hidden_ND, []
        others = [] if words is None else [words.masked, words.corrupted]
        if others:
            other_ids_N, other_hidden_ND, starts = self.sources(self.online, others)
            offsets = [len(ids_N) + start for start in starts]
            ids_N = torch.cat([ids_N, other_ids_N])
            if other_hidden_ND is not None:
                hidden_ND = torch.cat([hidden_ND, other_hidden_ND])
        own = np.arange(batch.num_pairs)
        negatives = pending.wait()
        parts = [sequences(online.paired, offset=0, image=negatives.images(), caption=negatives.captions())]
        parts += [sequences(kind, offset=offset, image=own) for kind, offset in zip(others, offsets, strict=True)]
        crossed = cross_encode(
            self.online.text_encoder,
            ids_N=ids_N,
            hidden_ND=hidden_ND,
            image_IPD=online.token_BPD,
            shown=CrossSequences.join(parts),
            group_I=batch.group_B,
        )
        return Matched(crossed=crossed, negatives=negatives, pending=pending)

    def matching_losses(self, batch: Batch, matched: Matched) -> dict[str, Tensor]:
        """pitm over 3B rows, prd over the B positives."""
        first_S = matched.crossed.packing.first_S[: 3 * batch.num_pairs]
        cls_RD = matched.crossed.hidden_ND.index_select(0, first_S)
        return {
            "pitm": matching_loss(
                self.itm_head(cls_RD), has_negative_B=matched.pending.has_B, group_pairs=batch.group_pairs
            ),
            "prd": relation_loss(self.prd_head(cls_RD[: batch.num_pairs]), batch.replaced_B),
        }

    def word_losses(self, batch: Batch, words: WordTask, matched: Matched) -> dict[str, Tensor]:
        """mlm at the masked positions, mrtd at every token."""
        hidden_ND, layout = matched.crossed.hidden_ND, words.own.layout
        place_N = (layout.sequence_N, layout.position_N)
        index_M, group_M, index_N, group_N = upload(
            [
                matched.rows(3, *words.chosen),
                words.chosen[0] // batch.group_pairs,
                matched.rows(4, *place_N),
                place_N[0] // batch.group_pairs,
            ],
            self.device,
        )
        mlm = masked_word_loss(
            self.online.word_logits(hidden_ND.index_select(0, index_M)),
            words.label_M,
            words.momentum_logit_MV,
            alpha=self.alpha(batch),
            group_M=group_M,
            num_groups=batch.num_groups,
            soft_log_MV=self._sequence_log(words, matched) if self.mlm_soft == "sequence" else None,
        )
        mrtd = replaced_token_loss(
            self.mrtd_head(hidden_ND.index_select(0, index_N)),  # type: ignore[misc]
            corrupted_N=words.corrupted.token_id_N,
            original_N=words.own.token_id_N,
            special_ids=(PAD_ID, self.cls_id),
            group_N=group_N,
            num_groups=batch.num_groups,
        )
        return {"mlm": mlm, "mrtd": mrtd}

    def _words(self, draws: Draws, place_N: tuple[Index, Index], hidden_ND: Tensor) -> Tensor:
        """One word of the generator for every token; `draws.recorded` may hold "words" (B, L) in place of drawn ones."""
        if "words" in draws.recorded:
            return upload([draws.recorded["words"].numpy()[place_N]], self.device)[0]
        uniform_N = torch.from_numpy(draws["words"][:, 0].numpy()[place_N]).to(self.device, non_blocking=True)
        return draw_words(self.momentum_encoder.word_logits(hidden_ND), uniform_N)

    def _sequence_log(self, words: WordTask, matched: Matched) -> Tensor:
        """The official soft term: log-softmax over positions, at the masked ones."""
        layout = words.own.layout
        rows_N = matched.rows(3, layout.sequence_N, layout.position_N)
        index_N, tokens_B, caption_M, position_M = upload([rows_N, layout.tokens_S, *words.chosen], self.device)
        logit_NV = self.online.word_logits(matched.crossed.hidden_ND.index_select(0, index_N))
        log_BLV = log_softmax_over_positions(logit_NV, words.own.packing.grid_SL, tokens_B)
        return log_BLV[caption_M, position_M]


def build(config: Rasa, *, image_px: tuple[int, int]) -> RasaMethod:
    """The method with random weights."""
    return RasaMethod(
        **family_arguments(config, image_px=image_px),
        weights=config.weights,
        mlm_probability=config.mlm_probability,
        mrtd_probability=config.mrtd_probability,
        mlm_soft=config.mlm_soft,
    )

"""What RaSa does with a batch (RaSa, arXiv 2305.13653; Flame-Chasers/RaSa): a part that RaSa, MARS and AGA hold.

Shapes: B pairs, L tokens of the longest caption, N packed tokens, M masked positions, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tbps.data.batch import Batch, Draws
from tbps.methods.albef.cross_calls import (
    CrossPass,
    CrossSequences,
    PackedCaptions,
    Tokens,
    cross_encode,
    encode_text,
    sequences,
)
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.matching import Further, Online, whole_batch
from tbps.methods.albef.pending_negatives import Negatives, PendingNegatives
from tbps.nn.bert import PAD_ID
from tbps.nn.device_copy import to_device
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.packing import Index, upload
from tbps.objectives.itc import Features
from tbps.objectives.masking import TokenMask, mask_tokens, token_mask
from tbps.objectives.mlm import log_softmax_over_positions, masked_word_loss
from tbps.objectives.mrtd import corrupt, draw_words, replaced_token_loss
from tbps.objectives.prd import relation_loss

MASKED, CORRUPTED = 3, 4
"""Kinds of sequences in the packed call after the three of matching."""
DRAWN_ROWS = 512
"""Tokens whose word is drawn at once."""


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
    """The online encoder's packed cross-encoder call: 3B matching rows, then masked, then corrupted captions."""

    crossed: CrossPass
    cls_RD: Tensor
    """[CLS] states of the matching rows."""
    negatives: Negatives
    pending: PendingNegatives

    def rows(self, kind: int, caption: Index, position: Index) -> Index:
        """Rows of the states of tokens of captions shown as `kind`: 0-2 matching, 3 masked, 4 corrupted."""
        return self.crossed.rows(kind * len(self.negatives.image_B) + caption, position)


@dataclass(kw_only=True)
class RasaTasks:
    """Heads and settings of RaSa's tasks. The heads are registered by the method that holds this."""

    prd_head: nn.Linear
    mrtd_head: nn.Linear | None
    """None where no loss needs words."""
    mlm_probability: float
    mrtd_probability: float
    mlm_soft: Literal["vocabulary", "sequence"]

    @classmethod
    def of(
        cls,
        method: AlbefFamily,
        *,
        mlm_probability: float,
        mrtd_probability: float,
        mlm_soft: Literal["vocabulary", "sequence"] = "vocabulary",
    ) -> RasaTasks:
        """With new heads for a method; m-RTD's only where the method predicts words. What no loss reaches stops training."""
        width = method.online.text_encoder.width
        prd_head = nn.Linear(width, 2)
        mrtd_head = None if method.online.word_head is None else nn.Linear(width, 2)
        method.rest_unused(prd_head)
        return cls(
            prd_head=prd_head,
            mrtd_head=mrtd_head,
            mlm_probability=mlm_probability,
            mrtd_probability=mrtd_probability,
            mlm_soft=mlm_soft,
        )


def predicts_words(weights: Mapping[str, float]) -> bool:
    """Whether one of RaSa's losses needs the word head."""
    return bool(weights["mlm"] or weights["mrtd"])


class RasaStep:
    """One step of a method that holds RaSa's tasks: what becomes of its batch, in the order that its `forward` says."""

    def __init__(self, method: AlbefFamily, tasks: RasaTasks, batch: Batch, draws: Draws) -> None:
        self.method, self.tasks, self.batch, self.draws = method, tasks, batch, draws
        self.device = method.device
        self.words = range(method.online.text_encoder.vocabulary_size)
        """Ids of which a random word is one."""

    def pack(self, own: bool = False) -> PackedCaptions:
        """The paired captions laid out, or the own ones."""
        captions = self.batch.own if own else self.batch.paired
        padded = self.method.padding == "official"
        return self.method.pack_captions(captions, group=self.batch.group_B, padded=padded)

    def contrast(self, online: Online, momentum: Features) -> tuple[Tensor, PendingNegatives | None]:
        """cl, and the hard negatives that the contrasts lead to; None where nothing is matched."""
        contrast, pending = self.method.contrast(self.batch, self.draws, online, momentum, intra=True)
        return sum(contrast.loss.values(), start=torch.zeros((), device=self.device)) / 4, pending

    # -- words -----------------------------------------------------------------------------------------------------------

    def mlm_mask(self) -> TokenMask:
        """What MLM masks: words chosen at random."""
        return token_mask(self.draws["mlm"], probability=self.tasks.mlm_probability, words=self.words)

    @torch.no_grad()
    def word_task(self, mlm: TokenMask, momentum_token_BPD: Tensor) -> WordTask:
        """Mask the own captions twice, one call of the momentum encoder for both, its soft labels and sampled words."""
        batch, method, encoder = self.batch, self.method, self.method.momentum_encoder
        own = self.pack(own=True)
        mrtd = token_mask(self.draws["mrtd"], probability=self.tasks.mrtd_probability, words=self.words)
        mlm_BL, chosen_BL = mask_tokens(batch.own, mlm, special_ids=(method.cls_id,), mask_id=method.mask_id)
        mrtd_BL, _ = mask_tokens(batch.own, mrtd, special_ids=(method.cls_id,), mask_id=method.mask_id)
        layout = own.layout
        place_N = (layout.sequence_N, layout.position_N)
        chosen_rows, chosen_places = chosen_BL.numpy().nonzero()
        chosen = (chosen_rows, chosen_places)
        mlm_N, mrtd_N, label_M = upload(
            [mlm_BL.numpy()[place_N], mrtd_BL.numpy()[place_N], batch.own.token_ids_BL.numpy()[chosen]], self.device
        )
        masked = PackedCaptions(layout=layout, packing=own.packing, token_id_N=mlm_N)
        generator = PackedCaptions(layout=layout, packing=own.packing, token_id_N=mrtd_N)
        crossed = self.cross_captions(encoder, [masked, generator], momentum_token_BPD, read=[chosen, None])
        rows_M = crossed.rows(*chosen)
        rows_N = crossed.rows(batch.num_pairs + place_N[0], place_N[1])
        index_M, index_N, real_N = upload(
            [rows_M, rows_N, (place_N[1] < layout.keys_S[place_N[0]]).astype(np.int64)], self.device
        )
        momentum_logit_MV = encoder.word_logits(crossed.hidden_RD.index_select(0, index_M))
        word_N = self._words(place_N, crossed.hidden_RD.index_select(0, index_N))
        corrupted_N = corrupt(
            word_N, position_N=own.packing.position_N, real_N=real_N, start_id=method.cls_id, pad_id=PAD_ID
        )
        return WordTask(
            own=own,
            masked=masked,
            generator=generator,
            chosen=chosen,
            label_M=label_M,
            momentum_logit_MV=momentum_logit_MV,
            corrupted=PackedCaptions(layout=layout, packing=own.packing, token_id_N=corrupted_N),
        )

    def cross_captions(
        self,
        encoder: DualEncoder,
        kinds: Sequence[PackedCaptions],
        image_BPD: Tensor,
        *,
        read: Sequence[Tokens | None],
    ) -> CrossPass:
        """Several variants of the captions of the batch, each with its own image, in one packed call; read: of which tokens
        of each variant the states are read (None: of all)."""
        offsets = np.cumsum([0, *(len(kind.token_id_N) for kind in kinds)])[:-1].tolist()
        own = whole_batch(self.batch)
        states = self._text_states(encoder, kinds)
        return cross_encode(
            encoder.text_encoder,
            ids_N=torch.cat([kind.token_id_N for kind in kinds]),
            hidden_ND=None if encoder.text_encoder.full_cross_attention else torch.cat(states),  # type: ignore[arg-type]
            image_IPD=image_BPD,
            shown=CrossSequences.join(
                [
                    sequences(kind, offset=offset, image=own, read=tokens)
                    for kind, offset, tokens in zip(kinds, offsets, read, strict=True)
                ]
            ),
            group_I=self.batch.group_B,
        )

    def _text_states(self, encoder: DualEncoder, kinds: Sequence[PackedCaptions]) -> list[Tensor | None]:
        """Text states of packed captions; None where the cross encoder starts from token ids."""
        text = encoder.text_encoder
        return [None if text.full_cross_attention else encode_text(text, kind) for kind in kinds]

    def _words(self, place_N: tuple[Index, Index], hidden_ND: Tensor) -> Tensor:
        """One word of the generator for every token; `draws.recorded` may hold "words" (B, L) in place of drawn ones."""
        if "words" in self.draws.recorded:
            return upload([self.draws.recorded["words"].numpy()[place_N]], self.device)[0]
        uniform_N = to_device(torch.from_numpy(self.draws["words"][:, 0].numpy()[place_N]), self.device)

        def draw(logit_RV: Tensor, at: int) -> Tensor:
            return draw_words(logit_RV, uniform_N[at : at + len(logit_RV)])

        # Logits of all tokens, in float64 too, were most of a step's memory (2.4 GB of 128 pairs).
        return self.method.momentum_encoder.reduced_logits(hidden_ND, draw, rows=DRAWN_ROWS)

    # -- the cross encoder -------------------------------------------------------------------------------------------------

    def match(
        self,
        online: Online,
        words: WordTask | None,
        pending: PendingNegatives,
        *,
        read: Callable[[Negatives], Tokens] | None = None,
    ) -> Matched:
        """The one packed call of the online encoder: positives, hard negatives, masked and corrupted captions.

        read: given the negatives, of which tokens of matching rows a loss reads the states, beside [CLS].
        """
        kinds: list[PackedCaptions] = []
        tokens: list[Tokens | None] = []
        if words is not None:
            # The official soft term of MLM reads every position, m-RTD does so always.
            kinds, tokens = [words.masked, words.corrupted], [words.chosen, None]
            if self.tasks.mlm_soft == "sequence":
                tokens[0] = None
        own = whole_batch(self.batch)
        further = [
            Further(captions=kind, hidden_ND=states, image=own, read=each)
            for kind, states, each in zip(kinds, self._text_states(self.method.online, kinds), tokens, strict=True)
        ]
        negatives = pending.wait()  # known by now: all this was queued behind their copy
        also = None if read is None else read(negatives)
        crossed = self.method.matching.cross(self.batch, online, negatives, further=further, read=also)
        cls_RD = self.method.matching.cls_states(self.batch, crossed)
        return Matched(crossed=crossed, cls_RD=cls_RD, negatives=negatives, pending=pending)

    def cross_losses(self, online: Online, words: WordTask | None, pending: PendingNegatives | None) -> dict[str, Tensor]:
        """pitm, prd, mlm and mrtd, as far as they are asked for: all that the cross encoder is needed for."""
        if pending is None:
            return {}
        matched = self.match(online, words, pending)
        losses = self.matching_losses(matched)
        return losses if words is None else losses | self.word_losses(words, matched)

    def matching_losses(self, matched: Matched) -> dict[str, Tensor]:
        """pitm over 3B rows, prd over the B positives."""
        batch, cls_RD = self.batch, matched.cls_RD
        return {
            "pitm": self.method.matching.loss(batch, self.method.itm_head(cls_RD), matched.pending),
            "prd": relation_loss(self.tasks.prd_head(cls_RD[: batch.num_pairs]), batch.replaced_B),
        }

    def word_losses(self, words: WordTask, matched: Matched) -> dict[str, Tensor]:
        """mlm at the masked positions, mrtd at every token."""
        batch, online = self.batch, self.method.online
        assert self.tasks.mrtd_head is not None
        hidden_RD, layout = matched.crossed.hidden_RD, words.own.layout
        place_N = (layout.sequence_N, layout.position_N)
        index_M, group_M, index_N, group_N = upload(
            [
                matched.rows(MASKED, *words.chosen),
                words.chosen[0] // batch.group_pairs,
                matched.rows(CORRUPTED, *place_N),
                place_N[0] // batch.group_pairs,
            ],
            self.device,
        )
        mlm = masked_word_loss(
            online.word_logits(hidden_RD.index_select(0, index_M)),
            words.label_M,
            words.momentum_logit_MV,
            alpha=self.method.past.alpha(batch),
            group_M=group_M,
            num_groups=batch.num_groups,
            soft_log_MV=self._sequence_log(words, matched) if self.tasks.mlm_soft == "sequence" else None,
        )
        mrtd = replaced_token_loss(
            self.tasks.mrtd_head(hidden_RD.index_select(0, index_N)),
            corrupted_N=words.corrupted.token_id_N,
            original_N=words.own.token_id_N,
            special_ids=(PAD_ID, self.method.cls_id),
            group_N=group_N,
            num_groups=batch.num_groups,
        )
        return {"mlm": mlm, "mrtd": mrtd}

    def _sequence_log(self, words: WordTask, matched: Matched) -> Tensor:
        """The official soft term: log-softmax over positions, at the masked ones."""
        layout = words.own.layout
        rows_N = matched.rows(MASKED, layout.sequence_N, layout.position_N)
        index_N, tokens_B, caption_M, position_M = upload([rows_N, layout.tokens_S, *words.chosen], self.device)
        logit_NV = self.method.online.word_logits(matched.crossed.hidden_RD.index_select(0, index_N))
        log_BLV = log_softmax_over_positions(logit_NV, words.own.packing.grid_SL, tokens_B)
        return log_BLV[caption_M, position_M]

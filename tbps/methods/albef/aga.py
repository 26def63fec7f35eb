"""AGA: RaSa with attention-guided masking (AGM) and text enrichment (TEM).

Knowing Where to Focus: Attention-Guided Alignment for Text-based Person Search (arXiv 2412.15106).
No official code is public.

Shapes: B pairs, R pairs whose caption is a weak positive, L tokens of the longest, N packed tokens, M masked positions.

What the paper leaves open, and what is done here (ours):
- Attention is that of the momentum encoder's text pass that the contrast needs anyway. RaSa masks the own caption, so the
  own captions of weak pairs ride along in that one packed call.
- MLM keeps BERT's 80 / 10 / 10; enrichment replaces every chosen position, whatever stood there.
- An enriched caption stands for the own one as the online view: contrast, matching and relation detection see it, while the
  momentum encoder's features, m-RTD and MLM are made of the caption as written. A weak positive is not enriched: the own
  caption is not shown in such a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.config.methods.aga import Aga
from tbps.config.needs import Draw
from tbps.data.batch import Batch, Draws
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.albef.building import Backbone, build_backbone
from tbps.methods.albef.cross_calls import PackedCaptions, encode_text_cls
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.masked_words import show_masked_words, training_step
from tbps.methods.albef.rasa import RasaMethod
from tbps.methods.albef.rasa_step import RasaStep, RasaTasks, WordTask, predicts_words
from tbps.methods.exhibit import Exhibit
from tbps.methods.method import LossesAndNumbers
from tbps.nn.bert import PAD_ID
from tbps.nn.device_copy import to_device
from tbps.nn.host_copy import HostCopy
from tbps.nn.packing import Index, upload
from tbps.objectives.attention_guided_masking import (
    Aggregation,
    aggregate_class_attention,
    mask_probability,
    vacuous_mask_probability,
)
from tbps.objectives.itc import Features
from tbps.objectives.masking import TokenMask, maskable
from tbps.objectives.text_enrichment import draw_other_words
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class MomentumText:
    """The momentum encoder's text pass."""

    cls_BD: Tensor
    """[CLS] states of the paired captions."""
    probability: HostCopy | None
    """(B, L) of each place of the own captions to be masked; None where attention does not decide."""


@dataclass(kw_only=True)
class PreparedWords:
    """What is decided about the words of a step before the online encoders run."""

    momentum: Features
    words: WordTask
    paired: PackedCaptions
    """The paired captions as the online encoders see them, some of them enriched."""


class AgaMethod(AlbefFamily):
    """Losses: RaSa's. Numbers: masked_ratio, the share of words that MLM masks, and vacuous_share, the share of semantically
    vacuous words among them (0 where the captions do not mark them); means over groups."""

    TRAINERS: ClassVar[Mapping[str, tuple[str, ...]]] = RasaMethod.TRAINERS
    MATCHING: ClassVar[tuple[str, ...]] = RasaMethod.MATCHING
    UNREAD: ClassVar[tuple[str, ...]] = RasaMethod.UNREAD

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: Mapping[str, float],
        masking: Literal["attention", "random", "picked"],
        aggregation: Aggregation,
        beta: float,
        attention_temperature: float,
        alpha_1: float,
        alpha_2: float,
        masked_share: float,
        p_tem: float,
        candidates: int,
        mlm_probability: float,
        mrtd_probability: float,
        draws: tuple[Draw, ...],
    ) -> None:
        words = predicts_words(weights)
        super().__init__(backbone, weights=weights, word_head=words, momentum_words=words)
        self.tasks = RasaTasks.of(self, mlm_probability=mlm_probability, mrtd_probability=mrtd_probability)
        self.prd_head, self.mrtd_head = self.tasks.prd_head, self.tasks.mrtd_head
        self.masking, self.aggregation, self.beta = masking, aggregation, beta
        self.attention_temperature, self.alpha_1, self.alpha_2 = attention_temperature, alpha_1, alpha_2
        self.masked_share, self.p_tem, self.candidates, self.draws = masked_share, p_tem, candidates, draws

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class. The wait for the masks is hidden behind the momentum encoder's image encoder."""
        step = RasaStep(self, self.tasks, batch, draws)
        prepared = None if self.mrtd_head is None else self.prepare_words(batch, draws)
        if prepared is None:
            paired, words = step.pack(), None
            momentum, _ = self.past.features(batch, paired)
        else:
            paired, words, momentum = prepared.paired, prepared.words, prepared.momentum
        online = self.encode_online(batch, paired)
        cl, pending = step.contrast(online, momentum)
        return {"cl": cl, **step.cross_losses(online, words, pending)}, {} if words is None else self.numbers(batch, words)

    @torch.no_grad()
    def prepare_words(self, batch: Batch, draws: Draws) -> PreparedWords:
        """Choose words, predict them, enrich captions. For reports too: in evaluation mode nothing is left for the queue.

        Only where a loss needs words: `mrtd_head` is None elsewhere.
        """
        step = RasaStep(self, self.tasks, batch, draws)
        paired = step.pack()
        differs_R = differing(batch)
        text = self.read_captions(batch, differs_R)
        momentum, momentum_token_BPD = self.past.features(batch, paired, cls_BD=text.cls_BD)
        words = step.word_task(self.choose_words(step, text.probability), momentum_token_BPD)
        enriched = self.enrich(paired, words, draws, differs_R)
        return PreparedWords(momentum=momentum, words=words, paired=enriched)

    @torch.no_grad()
    def read_captions(self, batch: Batch, differs_R: Index) -> MomentumText:
        """One packed text pass of the momentum encoder; what its [CLS] tokens attend to starts its way to the host."""
        if self.masking != "attention":
            paired = self.pack_captions(batch.paired, group=batch.group_B)
            return MomentumText(cls_BD=encode_text_cls(self.momentum_encoder.text_encoder, paired), probability=None)
        group_S = np.concatenate([batch.group_B, batch.group_B[differs_R]])
        shown = self.pack_captions(_join(batch.paired, batch.own, differs_R), group=group_S)
        encoder = self.momentum_encoder.text_encoder
        embedded_ND = encoder.embed(shown.token_id_N, shown.packing)
        hidden_ND, attention_KSL = encoder.encode_text_with_class_attention(embedded_ND, shown.packing)
        source_B = np.arange(batch.num_pairs)
        source_B[differs_R] = batch.num_pairs + np.arange(len(differs_R))
        source, length_B = upload([source_B, np.asarray(batch.own.lengths)], self.device)
        place_L = torch.arange(attention_KSL.shape[2], device=self.device)
        probability_BL = mask_probability(
            aggregate_class_attention(attention_KSL.index_select(1, source), aggregation=self.aggregation, beta=self.beta),
            (place_L > 0) & (place_L < length_B[:, None]),
            alpha_1=self.alpha_1,
            alpha_2=self.alpha_2,
            temperature=self.attention_temperature,
            masked_share=self.masked_share,
        )
        cls_BD = hidden_ND.index_select(0, shown.packing.first_S[: batch.num_pairs])
        return MomentumText(cls_BD=cls_BD, probability=HostCopy(probability_BL))

    def choose_words(self, step: RasaStep, probability: HostCopy | None) -> TokenMask:
        """What MLM masks: words chosen by attention, or among vacuous ones; as RaSa does where both are off."""
        batch, draws = step.batch, step.draws
        ids_BL, mask = batch.own.token_ids_BL, step.mlm_mask()
        if self.masking == "random":
            return mask
        if probability is not None:
            found_BL = probability.wait()
        else:
            assert batch.own.vacuous_BL is not None, "the loader marks vacuous words for AGA"
            found_BL = vacuous_mask_probability(
                batch.own.vacuous_BL, maskable(batch.own, special_ids=(self.cls_id,)), probability=self.tasks.mlm_probability
            )
        select_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
        length = min(ids_BL.shape[1], found_BL.shape[1])  # the rest is padding
        select_BL[:, :length] = draws["masked"][:, 0, :length] < found_BL[:, :length]
        return replace(mask, select_BL=select_BL)

    @torch.no_grad()
    def enrich(self, paired: PackedCaptions, words: WordTask, draws: Draws, differs_R: Index) -> PackedCaptions:
        """The paired captions; with `p_tem`, one that is the own caption with other words at MLM's positions."""
        if not self.p_tem:
            return paired
        caption_M, place_M = words.chosen
        takes_B = (draws["enriched"][:, 0] < self.p_tem).numpy()
        takes_B[differs_R] = False
        taken_K = np.flatnonzero(takes_B[caption_M])
        if not len(taken_K):
            return paired
        rows_K = paired.layout.rows(caption_M[taken_K], place_M[taken_K])
        taken, rows = upload([taken_K, rows_K], self.device)
        uniform_K = draws["other_word"][:, 0].numpy()[caption_M[taken_K], place_M[taken_K]]
        word_K = draw_other_words(
            words.momentum_logit_MV.index_select(0, taken),
            words.label_M.index_select(0, taken),
            to_device(torch.from_numpy(uniform_K), self.device),
            candidates=self.candidates,
            never=(PAD_ID, self.cls_id, self.mask_id),
        )
        return replace(paired, token_id_N=paired.token_id_N.index_copy(0, rows, word_K))

    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """Which words are masked how often, and enriched captions; nothing where no loss needs words."""
        if self.mrtd_head is None:
            return []
        return [
            show_masked_words(
                shown,
                self.chosen_words,
                masking=self.masking,
                random_ratio=self.tasks.mlm_probability,
                enriches=self.p_tem > 0,
            )
        ]

    def chosen_words(self, shown: ShownPairs) -> tuple[NDArray[np.bool_], Index]:
        """For reports: which tokens a training step of these pairs masks (B, L), and the enriched captions' ids (B, L)."""
        batch, draws = training_step(shown, self.draws, device=self.device)
        prepared = self.prepare_words(batch, draws)
        layout = prepared.paired.layout
        enriched_BL = np.zeros(batch.own.token_ids_BL.shape, dtype=np.int64)
        enriched_BL[layout.sequence_N, layout.position_N] = prepared.paired.token_id_N.cpu().numpy()
        masked_BL = np.zeros(enriched_BL.shape, dtype=bool)
        masked_BL[prepared.words.chosen] = True
        return masked_BL, enriched_BL

    def numbers(self, batch: Batch, words: WordTask) -> dict[str, Tensor]:
        """masked_ratio and vacuous_share, means over groups; made on the host, which knows the masks."""
        group_M = words.chosen[0] // batch.group_pairs
        words_B = np.asarray(batch.own.lengths) - 1
        words_G = words_B.reshape(batch.num_groups, -1).sum(1)
        masked_G = np.bincount(group_M, minlength=batch.num_groups)
        vacuous_M = np.zeros(len(group_M), dtype=bool)
        if batch.own.vacuous_BL is not None:
            vacuous_M = batch.own.vacuous_BL.numpy()[words.chosen]
        vacuous_G = np.bincount(group_M, weights=vacuous_M, minlength=batch.num_groups)
        found = {
            "masked_ratio": (masked_G / np.maximum(words_G, 1)).mean(),
            "vacuous_share": (vacuous_G / np.maximum(masked_G, 1)).mean(),
        }
        # full() is a fill on the device; tensor() would be a copy that waits for it
        return {name: torch.full((), float(value), device=self.device) for name, value in found.items()}


def differing(batch: Batch) -> Index:
    """Rows of the batch whose paired caption is another one than the own."""
    own_BL, paired_BL = batch.own.token_ids_BL.numpy(), batch.paired.token_ids_BL.numpy()
    length = min(own_BL.shape[1], paired_BL.shape[1])
    same_B = (own_BL[:, :length] == paired_BL[:, :length]).all(1)
    same_B &= np.asarray(batch.own.lengths) == np.asarray(batch.paired.lengths)
    return np.flatnonzero(~same_B)


def _join(first: Captions, second: Captions, rows: Index) -> Captions:
    """The captions of `first`, then some of `second`: ids and lengths only."""
    length = max(first.token_ids_BL.shape[1], second.token_ids_BL.shape[1])
    parts = [first.token_ids_BL, second.token_ids_BL[torch.from_numpy(rows)]]
    ids_SL = torch.cat([torch.nn.functional.pad(part, (0, length - part.shape[1])) for part in parts])
    return Captions(
        token_ids_BL=ids_SL,
        lengths=(*first.lengths, *(second.lengths[row] for row in rows)),
        chunk_id_BL=torch.zeros_like(ids_SL),
    )


def build(config: Aga, *, image_px: tuple[int, int]) -> AgaMethod:
    """The method with random weights."""
    return AgaMethod(
        build_backbone(config, image_px=image_px),
        weights=asdict(config.weights),
        masking=config.masking,
        aggregation=config.aggregation,
        beta=config.beta,
        attention_temperature=config.attention_temperature,
        alpha_1=config.alpha_1,
        alpha_2=config.alpha_2,
        masked_share=config.masked_share,
        p_tem=config.p_tem,
        candidates=config.candidates,
        draws=config.needs(image_px).draws,
        mlm_probability=config.mlm_probability,
        mrtd_probability=config.mrtd_probability,
    )

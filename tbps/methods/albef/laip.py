"""LAIP: ALBEF with a fusion triplet, attention-weighted phrases and masked phrases.

Learning Local Alignment from Image-Phrase Modeling for Text-based Person Search (arXiv 2406.10845).
No official code is public.

Shapes: B pairs, R = 3B matching rows, N packed tokens, M phrases, I images (= B), Q phrases of the image with the most,
P image tokens, D width, E features, V words.

Two stages (Sec. II-C): contrast and matching alone before the schedule's last stage, everything in it. The schedule starts
anew there, with a new optimiser state; momentum encoder, queue and the weight of soft targets go on.

What the paper leaves open, and what is done here (ours):
- A phrase is an attribute chunk (tbps/text/chunks.py): nouns with their adjectives, without articles; its masked word is one
  word piece, its words are predicted by BERT's word head, which ALBEF's weights bring along.
- Forward and backward attention are those of one pass, that of the masked phrase, which masked phrase modelling makes
  anyway. The score is the logit of the true word. Attention to the image's [CLS] is left out.
- Forward attention is differentiated, backward attention is not: it weighs.
- The phrase-guided vector weighs the image encoder's patches and shares the projections and the temperature of the contrast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.config.methods.laip import Laip
from tbps.data.batch import Batch, Draws
from tbps.data.shown_pairs import ShownSplit
from tbps.methods.albef.building import Backbone, build_backbone
from tbps.methods.albef.cross_calls import (
    CrossPass,
    PackedCaptions,
    cross_encode,
    encode_text,
    sequences,
)
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.laip_phrases import Looks, PhraseMaps, Phrases
from tbps.methods.albef.matching import Further, Online, whole_batch
from tbps.methods.albef.pending_negatives import PendingNegatives
from tbps.methods.albef.phrase_maps import NUM_QUERIES, show_phrase_maps
from tbps.methods.exhibit import Exhibit
from tbps.methods.method import LossesAndNumbers
from tbps.nn.attention import mean_attention, split_heads
from tbps.nn.bert import CrossRecord
from tbps.nn.device_copy import to_device
from tbps.nn.packing import Index, lay_out, upload
from tbps.objectives.bidirectional_attention import Attention, Combination, backward_attention, patch_weights
from tbps.objectives.fusion_triplet import fusion_triplet_loss
from tbps.objectives.group_mean import group_mean
from tbps.objectives.masking import mask_tokens, token_mask
from tbps.objectives.phrase_contrast import phrase_candidates, phrase_contrast_loss
from tbps.objectives.phrases import phrase_table
from tbps.text.token_batch import Captions


class LaipMethod(AlbefFamily):
    """Losses: itc, itm, and in the last stage triplet, bidir, mpm, mlm where they have a weight. Number: phrases, how many a
    caption has, on average."""

    TRAINERS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "itm_head.": ("itm", "triplet"),
        "online.word_head.": ("mpm", "mlm"),
        "online.image_projection.": ("itc", "bidir"),
        "online.text_projection.": ("itc", "bidir"),
    }
    MATCHING: ClassVar[tuple[str, ...]] = ("itm",)

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: Mapping[str, float],
        margin: float,
        attention: Attention,
        combination: Combination,
        attention_layer: int,
        mlm_probability: float,
    ) -> None:
        learns_words = bool(weights["mpm"] or weights["mlm"])
        scores_words = bool(weights["bidir"]) and attention != "forward"
        super().__init__(backbone, weights=weights, word_head=learns_words or scores_words)
        self.learns_words = learns_words
        self.margin, self.attention, self.combination, self.attention_layer = margin, attention, combination, attention_layer
        self.mlm_probability = mlm_probability
        if self.online.word_head is not None:
            self.online.word_head.requires_grad_(self.learns_words)

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class."""
        paired = self.pack_captions(batch.paired, group=batch.group_B)
        momentum, _ = self.past.features(batch, paired)
        online = self.encode_online(batch, paired)
        contrast, pending = self.contrast(batch, draws, online, momentum, intra=False)
        assert pending is not None, "matching always has a weight in LAIP"
        losses = {"itc": (contrast.loss["i2t"] + contrast.loss["t2i"]) / 2}
        numbers: dict[str, Tensor] = {}
        if not batch.last_stage:
            cls_RD = self.matching.cls_states(batch, self.matching.cross(batch, online, pending.wait()))
            losses["itm"] = self.matching.loss(batch, self.itm_head(cls_RD), pending) + self._idle_word_head(online)
            return losses, numbers
        phrases = self.read_phrases(batch, draws) if self.weights["bidir"] or self.weights["mpm"] else None
        masked = self._mask_captions(batch, draws) if self.weights["mlm"] else None
        crossed, phrased = self._cross(batch, online, pending, phrases, masked)
        losses |= self._global_losses(batch, crossed, pending)
        if phrases is not None and phrased is not None:
            losses |= self._phrase_losses(batch, online, phrases, phrased)
            # full() is a fill on the device; tensor() would be a copy that waits for it
            numbers["phrases"] = torch.full((), phrases.table.num_phrases / batch.num_pairs, device=self.device)
        if masked is not None:
            losses["mlm"] = self._masked_caption_loss(batch, masked[1], crossed)
        return losses, numbers

    # -- phrases ---------------------------------------------------------------------------------------------------------

    def read_phrases(self, batch: Batch, draws: Draws) -> Phrases:
        """Phrases of the own captions, whole and masked, through the text encoder in one packed call."""
        return self._read(batch.own, draws["phrase_word"][:, 0], group_B=batch.group_B)

    def _read(self, captions: Captions, uniform_BL: Tensor, *, group_B: Index) -> Phrases:
        table = phrase_table(
            captions.token_ids_BL.numpy(),
            captions.chunk_id_BL.numpy(),
            uniform_BL.numpy(),
            mask_id=self.mask_id,
            group_pairs=int((group_B == group_B[0]).sum()),
        )
        packed = self.pack_captions(table.captions, group=np.tile(group_B[table.caption_M], 2))
        one_token = lay_out(np.ones_like(table.caption_M), image=table.caption_M, num_images=len(captions.lengths))
        return Phrases(
            table=table,
            packed=packed,
            hidden_ND=encode_text(self.online.text_encoder, packed),
            per_image=one_token.to(self.device),
        )

    @torch.no_grad()
    def phrase_maps(self, image_BCHW: Tensor, captions: Captions) -> PhraseMaps:
        """For reports: attention of every phrase over the patches of its caption's image, its last word masked."""
        with torch.enable_grad():
            uniform_BL = torch.full(captions.token_ids_BL.shape, 1 - 1e-6)
            phrases = self._read(captions, uniform_BL, group_B=np.zeros(len(captions.lengths), np.int64))
            crossed = cross_encode(
                self.online.text_encoder,
                ids_N=phrases.packed.token_id_N,
                hidden_ND=phrases.hidden_ND,
                image_IPD=self.online.image_encoder(image_BCHW),
                shown=sequences(
                    phrases.packed,
                    offset=0,
                    image=phrases.table.caption_M,
                    caption=phrases.masked_rows(),
                    read=phrases.read(watched=self._watches_last),
                ),
                record_layer=self.attention_layer,
            )
            looks = self.look(phrases, crossed)
        attentions: dict[str, Attention] = {"forward": "forward"}
        if self.attention != "forward":
            attentions |= {"backward": "backward", "weights": self.attention}
        by_image = phrases.per_image.all.by_image
        assert by_image is not None
        return PhraseMaps(
            table=phrases.table,
            maps_MN={
                name: self._patch_weights(looks, attention).flatten(0, 1).index_select(0, by_image.place_N)
                for name, attention in attentions.items()
            },
        )

    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """What the phrases of some captions look at; nothing where no loss reads that."""
        if not self.weights["bidir"]:
            return []
        pairs = shown.read(shown.spread(NUM_QUERIES))
        found = self.phrase_maps(pairs.images(self.device), pairs.captions)
        return [
            show_phrase_maps(
                pairs,
                shown.encoder.tokeniser,
                found.table,
                found.maps_MN,
                grid=self.online.image_encoder.grid,
                layer=self.attention_layer,
                attention=self.attention,
            )
        ]

    def masked_words(self, phrases: Phrases, crossed: CrossPass) -> Tensor:
        """Word logits (M, V) at the masked words; crossed: the pass of the masked phrases."""
        table = phrases.table
        rows_M = crossed.rows(np.arange(len(table.caption_M)), table.position_M)
        (index_M,) = upload([rows_M], self.device)
        return self.online.word_logits(crossed.hidden_RD.index_select(0, index_M))

    def look(self, phrases: Phrases, crossed: CrossPass, *, logit_MV: Tensor | None = None) -> Looks:
        """Forward and backward attention of the phrases' [CLS] over all image tokens.

        The gradient is that of the true words' logits (the sum: phrases do not meet) to what the watched layer's attention
        gave, a part of this very pass, whose graph holds masked phrases alone. logit_MV: the logits, if they are known.
        """
        assert crossed.record is not None
        record = crossed.record
        rows_M = record.first_S
        gradient_RD = torch.zeros_like(record.context_RD)
        if self.attention != "forward":
            logit_MV = self.masked_words(phrases, crossed) if logit_MV is None else logit_MV
            (label_M,) = upload([phrases.table.label_M], self.device)
            score = logit_MV.gather(1, label_M[:, None]).sum()
            (gradient_RD,) = torch.autograd.grad(score, record.context_RD, retain_graph=True)
        with torch.autocast(self.device.type, enabled=False):
            query_IHQd = self._by_image(record.query_RD.index_select(0, rows_M), phrases, record)
            gradient_IHQd = self._by_image(gradient_RD.index_select(0, rows_M), phrases, record)
            return Looks(
                forward_IQP=mean_attention(query_IHQd.float(), record.key_IHPd.float()),
                backward_IQP=backward_attention(gradient_IHQd, record.value_IHPd.detach()),
            )

    @property
    def _watches_last(self) -> bool:
        text = self.online.text_encoder
        return bool(self.weights["bidir"]) and self.attention_layer == len(text.layers) - text.first_cross_layer

    def _by_image(self, x_MD: Tensor, phrases: Phrases, record: CrossRecord) -> Tensor:
        """(M, D) to (I, H, Q, d); places without a phrase repeat the first one, and are never read."""
        images = phrases.per_image.all
        assert images.by_image is not None
        x_IQD = images.by_image.lay(x_MD).view(*images.images[0].queries, -1)
        return split_heads(x_IQD, record.key_IHPd.shape[1])

    def _patch_weights(self, looks: Looks, attention: Attention) -> Tensor:
        """Over patches: the image's [CLS] is none."""
        forward_IQN, backward_IQN = looks.forward_IQP[..., 1:], looks.backward_IQP[..., 1:]
        return patch_weights(forward_IQN, backward_IQN, attention=attention, combination=self.combination)

    def guided_features(self, looks: Looks, phrases: Phrases, token_BPD: Tensor) -> Tensor:
        """The image as each phrase sees it: (M, E) unit rows (Eq. 8)."""
        weight_IQN = self._patch_weights(looks, self.attention)
        guided_IQD = weight_IQN.to(token_BPD.dtype) @ token_BPD[:, 1:]
        assert phrases.per_image.all.by_image is not None
        guided_MD = phrases.per_image.all.by_image.collect(guided_IQD.flatten(0, 1))
        return self.online.image_feature(guided_MD[:, None])

    # -- losses ------------------------------------------------------------------------------------------------------------

    def _cross(
        self,
        batch: Batch,
        online: Online,
        pending: PendingNegatives,
        phrases: Phrases | None,
        masked: tuple[PackedCaptions, Tensor] | None,
    ) -> tuple[CrossPass, CrossPass | None]:
        """3B matching rows, then masked captions, in one packed pass; beside it one of the masked phrases, so that the
        gradient of `look` goes back through them alone."""
        negatives, further = pending.wait(), []
        if masked is not None:
            captions, chosen_BL = masked
            hidden_ND = encode_text(self.online.text_encoder, captions)
            rows, places = chosen_BL.numpy().nonzero()
            further.append(Further(captions=captions, hidden_ND=hidden_ND, image=whole_batch(batch), read=(rows, places)))
        if phrases is None:
            return self.matching.cross(batch, online, negatives, further=further), None
        return self.matching.cross_apart(
            batch,
            online,
            negatives,
            further=further,
            apart=Further(
                captions=phrases.packed,
                hidden_ND=phrases.hidden_ND,
                image=phrases.table.caption_M,
                rows=phrases.masked_rows(),
                read=phrases.read(watched=self._watches_last),
            ),
            record_layer=self.attention_layer if self.weights["bidir"] else None,
        )

    def _global_losses(self, batch: Batch, crossed: CrossPass, pending: PendingNegatives) -> dict[str, Tensor]:
        logit_R2 = self.itm_head(self.matching.cls_states(batch, crossed))
        losses = {"itm": self.matching.loss(batch, logit_R2, pending)}
        if self.weights["triplet"]:
            losses["triplet"] = fusion_triplet_loss(
                logit_R2[:, 1], margin=self.margin, has_negative_B=pending.has_B, group_pairs=batch.group_pairs
            )
        return losses

    def _phrase_losses(self, batch: Batch, online: Online, phrases: Phrases, crossed: CrossPass) -> dict[str, Tensor]:
        table = phrases.table
        weight_M = to_device(torch.from_numpy(table.weight_M), self.device)
        losses: dict[str, Tensor] = {}
        logit_MV: Tensor | None = None
        if self.weights["mpm"]:
            logit_MV = self.masked_words(phrases, crossed)
            (label_M,) = upload([table.label_M], self.device)
            losses["mpm"] = (weight_M * F.cross_entropy(logit_MV.float(), label_M, reduction="none")).sum()
        if self.weights["bidir"]:
            looks = self.look(phrases, crossed, logit_MV=logit_MV)
            losses["bidir"] = self._bidirectional_loss(batch, online, phrases, looks, weight_M)
        return losses

    def _bidirectional_loss(self, batch: Batch, online: Online, phrases: Phrases, looks: Looks, weight_M: Tensor) -> Tensor:
        table = phrases.table
        caption_M, words_M = upload([table.caption_M, table.words_M], self.device)
        whole_M = phrases.packed.packing.first_S[: len(table.caption_M)]
        candidate_MM = phrase_candidates(
            batch.identity_B.index_select(0, caption_M), caption_M // batch.group_pairs, words_M
        )
        image_ME = self.guided_features(looks, phrases, online.token_BPD)
        phrase_ME = self.online.caption_feature(phrases.hidden_ND.index_select(0, whole_M))
        with torch.autocast(self.device.type, enabled=False):
            return phrase_contrast_loss(
                image_ME, phrase_ME, candidate_MM=candidate_MM, temperature=self.temperature, weight_M=weight_M
            )

    def _mask_captions(self, batch: Batch, draws: Draws) -> tuple[PackedCaptions, Tensor]:
        """Own captions with BERT's masks, and which places are masked."""
        words = range(self.online.text_encoder.vocabulary_size)
        mask = token_mask(draws["mlm"], probability=self.mlm_probability, words=words)
        ids_BL, chosen_BL = mask_tokens(batch.own, mask, special_ids=(self.cls_id,), mask_id=self.mask_id)
        return self.pack_captions(replace(batch.own, token_ids_BL=ids_BL), group=batch.group_B), chosen_BL

    def _masked_caption_loss(self, batch: Batch, chosen_BL: Tensor, crossed: CrossPass) -> Tensor:
        """mlm: one-hot labels, as masked phrases have them (Eq. 11)."""
        row_K, place_K = chosen_BL.numpy().nonzero()
        first = len(crossed.layout.tokens_S) - batch.num_pairs
        labels = batch.own.token_ids_BL.numpy()[row_K, place_K]
        index_K, label_K, group_K = upload(
            [crossed.rows(first + row_K, place_K), labels, row_K // batch.group_pairs], self.device
        )
        logit_KV = self.online.word_logits(crossed.hidden_RD.index_select(0, index_K))
        value_K = F.cross_entropy(logit_KV.float(), label_K, reduction="none")
        return group_mean(value_K, group_K, num_groups=batch.num_groups)

    def _idle_word_head(self, online: Online) -> Tensor | float:
        """0 times the word head: data-parallel training waits for a gradient of every weight."""
        return 0.0 * self.online.word_logits(online.hidden_ND[:1]).sum() if self.learns_words else 0.0


def build(config: Laip, *, image_px: tuple[int, int]) -> LaipMethod:
    """The method with random weights."""
    return LaipMethod(
        build_backbone(config, image_px=image_px),
        weights=asdict(config.weights),
        margin=config.margin,
        attention=config.attention,
        combination=config.combination,
        attention_layer=config.attention_layer,
        mlm_probability=config.mlm_probability,
    )

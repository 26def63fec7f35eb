"""APTM: contrast, matching and masked words of captions; of reworded captions; of prompts that tell attributes.

    L = sum over its losses of weight * loss; see tbps/config/methods/aptm.py for the names

No momentum encoder and no queue: contrast is of the whole batch, matching draws hard negatives inside a group (the official
code's GPU), and so does everything that reads prompts.
Source: APTM (arXiv 2306.02898); Shuyu-XJTU/APTM models/model_retrieval.py, models/xvlm.py.
Differs, unless asked for (`masking`, `itc_gradient` = official): only words are masked; the contrast has its whole gradient.

Shapes: B pairs in G groups of g, E features, T prompts, A attributes, K matched prompts, M masked places, V words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.config.methods.aptm import Aptm
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.aptm_masks import Masking, PromptChoices, choose_prompts, host_labels, repeat_captions
from tbps.methods.albef.aptm_parts import (
    Encoded,
    EncodedText,
    Guessed,
    Tasks,
    attribute_contrast,
    matched_prompts,
    prompt_matching,
)
from tbps.methods.albef.cross_calls import PackedCaptions, cls_tokens, encode_text, pack_captions
from tbps.methods.albef.matching import whole_batch
from tbps.methods.albef.pair_scores import CrossMatcher
from tbps.methods.albef.pending_negatives import PendingNegatives
from tbps.methods.albef.shown_parts import ShownPart, ShownParts, show_parts
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, LossesAndNumbers, Method
from tbps.nn.bert import Bert
from tbps.nn.dropout import Groups
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.host_copy import HostCopy
from tbps.nn.packing import Index, lay_out, upload
from tbps.nn.swin import SwinTransformer
from tbps.objectives.batch_contrast import batch_contrast
from tbps.objectives.group_mean import group_mean
from tbps.objectives.itm import matching_loss
from tbps.objectives.sdm import identity_distribution
from tbps.objectives.span_masking import MaskedSpans
from tbps.text.token_batch import Captions

FLOOR = 1e-5
"""Added to every probability of a hard negative."""


class AptmMethod(Method):
    """Losses: itc, itm, mlm, reworded_itc, reworded_itm, attribute_itc, attribute_itm, attribute_mlm; each only where it has
    a weight."""

    encoders = ("online.image_encoder", "online.text_encoder")

    def __init__(
        self,
        *,
        image_encoder: SwinTransformer,
        text_encoder: Bert,
        projection: int,
        temperature: float,
        weights: Mapping[str, float],
        masking: Masking,
        itc_gradient: Literal["whole", "official"],
        label_smoothing: float,
        prompts_matched: int,
    ) -> None:
        super().__init__(weights=weights)
        self.masking, self.itc_gradient = masking, itc_gradient
        self.label_smoothing, self.prompts_matched = label_smoothing, prompts_matched
        self.online = DualEncoder(
            image_encoder=image_encoder, text_encoder=text_encoder, projection=projection, word_head=True
        )
        self.temperature = nn.Parameter(torch.tensor(temperature))
        width = text_encoder.width
        self.itm_head = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 2)
        )
        self._rest_unused()

    def _rest_unused(self) -> None:
        """Stop gradients of what no loss reaches, so that data-parallel training does not wait for them."""
        text = self.online.text_encoder
        matches = self._any("itm", "reworded_itm", "attribute_itm")
        guesses = self._any("mlm", "attribute_mlm")
        unused: list[nn.Module | None] = [] if matches else [self.itm_head]
        unused += [] if guesses else [self.online.word_head]
        unused += [] if matches or guesses else list(text.layers[text.fusion_layer :])
        for module in unused:
            assert module is not None
            module.requires_grad_(False)

    def _any(self, *names: str) -> bool:
        return any(name in self.weights for name in names)

    def untrained(self, *, reranks: bool) -> list[str]:
        """See the base class. The word head is read by its own losses alone."""
        unread = ("online.word_head.", *(() if reranks else ("itm_head.", "online.text_encoder.")))
        return [name for name in super().untrained(reranks=reranks) if not name.startswith(unread)]

    @property
    def device(self) -> torch.device:
        """Where the method lives."""
        return self.temperature.device

    # -- the step ----------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Named losses, and numbers for the log; see tbps/methods/method.py."""
        labels = HostCopy(batch.fields["attributes"]) if self._reads_attributes else None
        encoded = self.encode(batch)
        losses = self.contrast_losses(batch, encoded)
        pending = self.start_negatives(batch, draws, encoded)
        prompts = self.encode_prompts(batch) if self._reads_attributes else None
        if "attribute_itc" in self.weights and prompts is not None:
            losses["attribute_itc"] = attribute_contrast(
                batch,
                encoded.image_BE,
                prompts.feature_BE,
                temperature=self.temperature,
                smoothing=self.label_smoothing,
            )
        tasks = Tasks()
        if "mlm" in self.weights:
            self.mask_captions(batch, draws, tasks)
        if prompts is not None and labels is not None:
            assert batch.prompts is not None, "needs.prompts names them"
            choices = choose_prompts(
                batch.prompts,
                host_labels(labels.wait()),
                draws,
                self.masking,
                group_pairs=batch.group_pairs,
                matched=self.prompts_matched,
            )
            self.show_prompts(batch, prompts, choices, tasks)
        for name, each in pending.items():
            negatives, text = each.wait(), encoded.texts[name]  # known by now: all this was queued behind their copy
            tasks.shown[name] = ShownPart(
                captions=text.captions,
                hidden_ND=text.hidden_ND,
                image_S=negatives.images(),
                caption_S=negatives.captions(),
                read=cls_tokens(3 * batch.num_pairs),
            )
        if tasks.shown:
            states = show_parts(self.online.text_encoder, tasks.shown, image_IPD=encoded.token_BPD, group_I=batch.group_B)
            losses |= self.matching_losses(batch, states, pending, tasks)
            losses |= {name: self.word_loss(batch, states, name, tasks) for name in tasks.guessed}
        return losses, {"temperature": self.temperature.detach()}

    @property
    def _reads_attributes(self) -> bool:
        return self._any("attribute_itc", "attribute_itm", "attribute_mlm")

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """What `forward` gives to the scope."""
        return self._rows(batch, self.encode(batch))

    def encode(self, batch: Batch) -> Encoded:
        """Images and captions through their encoders."""
        groups = Groups(
            numbers=tuple(range(batch.first_group, batch.first_group + batch.num_groups)),
            rows=(batch.group_pairs,) * batch.num_groups,
        )
        token_BPD = self.online.image_encoder(batch.image_BCHW, groups)
        texts = {}
        if self._any("itc", "itm", "mlm", "reworded_itc", "reworded_itm"):
            texts["own"] = self._encode_text(pack_captions(batch.own, self.device, group=batch.group_B))
        if self._any("reworded_itc", "reworded_itm"):
            assert batch.reworded is not None, "needs.rewording asks for them"
            texts["reworded"] = self._encode_text(pack_captions(batch.reworded, self.device, group=batch.group_B))
        return Encoded(token_BPD=token_BPD, image_BE=self.online.image_feature(token_BPD), texts=texts)

    def _encode_text(self, captions: PackedCaptions) -> EncodedText:
        hidden_ND = encode_text(self.online.text_encoder, captions)
        feature_BE = self.online.caption_feature(hidden_ND.index_select(0, captions.packing.first_S))
        return EncodedText(captions=captions, hidden_ND=hidden_ND, feature_BE=feature_BE)

    def _rows(self, batch: Batch, encoded: Encoded) -> dict[str, Tensor]:
        rows = {name: text.feature_BE for name, text in encoded.texts.items()}
        return {"image": encoded.image_BE} | rows

    def contrast_losses(self, batch: Batch, encoded: Encoded) -> dict[str, Tensor]:
        """itc and reworded_itc."""
        if not encoded.texts:
            return {}
        rows, identity_G = self._rows(batch, encoded), batch.scope.identity_G
        if self.itc_gradient == "official":
            share = batch.group_pairs / len(identity_G)
            rows = {name: row.detach() + share * (row - row.detach()) for name, row in rows.items()}
        whole = batch.scope.whole(rows)
        target_GG, scale = identity_distribution(identity_G), 1 / self.temperature
        return {
            name: batch_contrast(whole["image"], whole[caption], target_GG, scale=scale)
            for name, caption in (("itc", "own"), ("reworded_itc", "reworded"))
            if name in self.weights
        }

    def start_negatives(self, batch: Batch, draws: Draws, encoded: Encoded) -> dict[str, PendingNegatives]:
        """Draw hard negatives of each kind of captions; their copies to the host begin."""
        pending = {}
        for name, text in encoded.texts.items():
            prefix = "" if name == "own" else f"{name}_"
            if f"{prefix}itm" not in self.weights:
                continue
            i2t_Bg, t2i_Bg = self._group_logits(batch, encoded.image_BE, text.feature_BE)
            recorded = {
                key: draws.recorded[f"{prefix}{key}"]
                for key in ("negative_image", "negative_caption")
                if f"{prefix}{key}" in draws.recorded
            }
            own = Draws(numbers={"negatives": draws[f"{prefix}negatives"]}, recorded=recorded)
            pending[name] = PendingNegatives(
                i2t_BC=i2t_Bg,
                t2i_BC=t2i_Bg,
                identity_B=batch.identity_B,
                group_pairs=batch.group_pairs,
                draws=own,
                floor=FLOOR,
            )
        return pending

    @torch.no_grad()
    def _group_logits(self, batch: Batch, image_BE: Tensor, caption_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities inside a group over the temperature: (B, g) of images, and of captions."""
        with torch.autocast(image_BE.device.type, enabled=False):
            image_GgE, caption_GgE = (x.unflatten(0, (-1, batch.group_pairs)) for x in (image_BE, caption_BE))
            logit_Ggg = image_GgE @ caption_GgE.transpose(1, 2) / self.temperature
        return logit_Ggg.flatten(0, 1), logit_Ggg.transpose(1, 2).flatten(0, 1)

    def mask_captions(self, batch: Batch, draws: Draws, tasks: Tasks) -> None:
        """Masked captions, each with its own image."""
        spans = self.masking.of_captions(batch.own, draws)
        captions = self._pack_masked(spans, np.asarray(batch.own.lengths), batch.group_B)
        rows = whole_batch(batch)
        tasks.shown["mlm"] = self._shown(captions, spans, image_S=rows, caption_S=rows)
        tasks.guessed["mlm"] = Guessed(spans=spans, group_M=spans.row_M // batch.group_pairs)

    def _pack_masked(self, spans: MaskedSpans, lengths_B: Index, group_B: Index) -> PackedCaptions:
        """Padding is computed where one of its places is guessed, and attended to by nobody."""
        tokens_B = lengths_B.copy()
        np.maximum.at(tokens_B, spans.row_M, spans.position_M + 1)
        layout = lay_out(tokens_B, keys=lengths_B, group=group_B)
        ids_N = spans.token_ids_BL[layout.sequence_N, layout.position_N]
        return PackedCaptions(layout=layout, packing=layout.to(self.device), token_id_N=upload([ids_N], self.device)[0])

    def _shown(self, captions: PackedCaptions, masked: MaskedSpans, *, image_S: Index, caption_S: Index) -> ShownPart:
        return ShownPart(
            captions=captions,
            hidden_ND=encode_text(self.online.text_encoder, captions),
            image_S=image_S,
            caption_S=caption_S,
            read=(masked.row_M, masked.position_M),
        )

    # -- prompts -----------------------------------------------------------------------------------------------------------

    def encode_prompts(self, batch: Batch) -> EncodedText:
        """All prompts once for each group of the batch: the official code encodes them on each GPU."""
        assert batch.prompts is not None, "needs.prompts names them"
        group = np.repeat(batch.first_group + np.arange(batch.num_groups), len(batch.prompts.lengths))
        repeated = repeat_captions(batch.prompts, batch.num_groups)
        return self._encode_text(pack_captions(repeated, self.device, group=group))

    def show_prompts(self, batch: Batch, prompts: EncodedText, choices: PromptChoices, tasks: Tasks) -> None:
        """Matched prompts with all images of their group, and masked prompts with an image each."""
        tasks.choices = choices
        if "attribute_itm" in self.weights:
            tasks.shown["attribute_itm"] = matched_prompts(batch, prompts, choices)
        if "attribute_mlm" in self.weights:
            assert batch.prompts is not None
            count = len(batch.prompts.lengths)
            group = choices.prompt_M // count
            lengths = np.asarray(batch.prompts.lengths)[choices.prompt_M % count]
            captions = self._pack_masked(choices.masked, lengths, batch.first_group + group)
            tasks.shown["attribute_mlm"] = self._shown(
                captions, choices.masked, image_S=choices.image_M, caption_S=np.arange(len(lengths))
            )
            tasks.guessed["attribute_mlm"] = Guessed(spans=choices.masked, group_M=group[choices.masked.row_M])

    # -- the cross encoder's losses ----------------------------------------------------------------------------------------

    def matching_losses(
        self, batch: Batch, states: ShownParts, pending: Mapping[str, PendingNegatives], tasks: Tasks
    ) -> dict[str, Tensor]:
        """itm, reworded_itm, attribute_itm."""
        losses = {}
        for name, each in pending.items():
            logit_R2 = self.itm_head(states.cls_states(name))
            losses["itm" if name == "own" else f"{name}_itm"] = matching_loss(
                logit_R2, has_negative_B=each.has_B, group_pairs=batch.group_pairs
            )
        if "attribute_itm" in tasks.shown:
            assert tasks.choices is not None
            logit_R2 = self.itm_head(states.cls_states("attribute_itm"))
            losses["attribute_itm"] = prompt_matching(
                batch, logit_R2, tasks.choices.matched_GK, smoothing=self.label_smoothing
            )
        return losses

    def word_loss(self, batch: Batch, states: ShownParts, name: str, tasks: Tasks) -> Tensor:
        """mlm or attribute_mlm: cross entropy of the masked words, mean of a group's, then over groups."""
        guessed = tasks.guessed[name]
        hidden_MD = states.token_states(name, guessed.spans.row_M, guessed.spans.position_M)
        word_M, group_M = upload([guessed.spans.word_M, guessed.group_M], self.device)
        value_M = F.cross_entropy(self.online.word_logits(hidden_MD).float(), word_M, reduction="none")
        return group_mean(value_M, group_M, num_groups=batch.num_groups)

    # -- evaluation --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Features and all tokens."""
        token_BPD = self.online.image_encoder(image_BCHW)
        return EmbeddedImages(feature_IE=self.online.image_feature(token_BPD), tokens_IPD=token_BPD)

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Features and the packed text states."""
        text = self._encode_text(pack_captions(captions, self.device))
        return EmbeddedCaptions(feature_QE=text.feature_BE, hidden_ND=text.hidden_ND)

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """See tbps/methods/method.py."""
        return self.online.embed_padded(token_id_BL, length_B)

    def matcher(self) -> CrossMatcher:
        """The matching head on the cross encoder."""

        def pack(captions: Captions) -> PackedCaptions:
            return pack_captions(captions, self.device)

        return CrossMatcher(text=self.online.text_encoder, itm_head=self.itm_head, pack=pack, device=self.device)


def build(config: Aptm, *, image_px: tuple[int, int]) -> AptmMethod:
    """The method with random weights."""
    swin, bert = config.swin, config.bert
    return AptmMethod(
        image_encoder=SwinTransformer(
            image_px=image_px,
            patch_px=swin.patch_px,
            width=swin.width,
            depths=swin.depths,
            heads=swin.heads,
            window=swin.window,
            drop_path=swin.drop_path,
            init_std=swin.init_std,
        ),
        text_encoder=Bert(
            width=bert.width,
            layers=bert.layers,
            heads=bert.heads,
            intermediate=bert.intermediate,
            vocabulary_size=bert.vocabulary_size,
            max_positions=bert.max_positions,
            fusion_layer=bert.fusion_layer,
            full_cross_attention=False,
            image_width=swin.last_width,
            dropout=bert.dropout,
            init_std=bert.init_std,
        ),
        projection=config.projection,
        temperature=config.temperature,
        weights=config.weights.by_name(),
        masking=Masking(
            share=config.mlm_share,
            most=config.most_masked,
            rule=config.masking,
            official_tokens=config.official_tokens,
            mask_id=bert.mask_id,
            vocabulary_size=bert.vocabulary_size,
        ),
        itc_gradient=config.itc_gradient,
        label_smoothing=config.label_smoothing,
        prompts_matched=config.prompts_matched,
    )

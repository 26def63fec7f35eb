"""IRRA: CLIP's towers, trained by similarity distributions, identities, and words guessed from the image.

    L = a SDM(v, t) + b (CE(c, W v) + CE(c, W t)) / 2 + m mean over masked words w of -log p(w | masked caption, image)

a, b, m: weights of sdm, identity and mlm. v and t are the image's [CLS] and the caption's end token, projected; SDM reads
them as unit rows. All projected tokens of an image are what its masked caption looks at.
Source: IRRA (arXiv 2303.12501); anosorae/IRRA model/build.py.
Differs, unless asked for (`mask_text_for_all_losses`, `padding` = official): SDM and ID read captions without masks, as the
paper draws it; captions do not attend to padding. Weights stay float32.

Shapes: B pairs, E features, P image tokens, L tokens of the longest caption, N packed tokens, M masked words, C identities,
V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tbps.config.methods.irra import Irra
from tbps.data.batch import Batch, Draws
from tbps.methods.clip.global_matching import make_classifier, match_globally, percent_right, unit
from tbps.methods.clip.masked_captions import mask_captions
from tbps.methods.clip.towers import build_towers
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, LossesAndNumbers, Method
from tbps.nn.clip_text import PackedText, pack_captions
from tbps.nn.clip_towers import ClipTowers
from tbps.nn.cross_former import CrossFormer, WordHead
from tbps.nn.packing import upload
from tbps.objectives.guessed_words import guessed_words_loss
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class WordTask:
    """The masked words of a batch, which are to be guessed; all tensors lie on the device."""

    text: PackedText
    """The masked captions."""
    row_M: Tensor
    """Row of each masked word among the packed tokens of all captions."""
    word_M: Tensor
    """Id of the word that stood there."""
    count_B: Tensor
    """How many words of each caption are masked, as a float; one row for each pair."""


@dataclass(kw_only=True)
class Encoded:
    """What both towers make of a batch."""

    image_BE: Tensor
    """Features before they are normalised."""
    caption_BE: Tensor
    image_BPE: Tensor | None
    """All tokens of the images; None where no word is guessed."""
    masked_NE: Tensor | None
    """All tokens of the masked captions, packed."""


class IrraMethod(Method):
    """Losses: sdm, identity, mlm; each only where it has a weight."""

    encoders = ("towers.image", "towers.text")

    def __init__(
        self,
        *,
        towers: ClipTowers,
        features: int,
        weights: Mapping[str, float],
        num_identities: int,
        vocabulary_size: int,
        cross_layers: int,
        cross_heads: int,
        logit_scale: float,
        mask_id: int,
        mlm_probability: float,
        mask_text_for_all_losses: bool,
        padded_to: int,
        quick_gelu: bool,
    ) -> None:
        """padded_to: tokens to which captions are filled up where words are guessed (official); 0 = none are."""
        super().__init__(weights=weights)
        self.logit_scale, self.mask_id, self.mlm_probability = logit_scale, mask_id, mlm_probability
        self.mask_text_for_all_losses, self.padded_to = mask_text_for_all_losses, padded_to
        self.towers = towers
        self.classifier: nn.Linear | None = None
        self.cross_former: CrossFormer | None = None
        self.word_head: WordHead | None = None
        if "identity" in weights:
            self.classifier = make_classifier(features=features, num_identities=num_identities)
        if "mlm" in weights:
            self.cross_former = CrossFormer(width=features, layers=cross_layers, heads=cross_heads, quick_gelu=quick_gelu)
            self.word_head = WordHead(width=features, vocabulary_size=vocabulary_size, layers=cross_layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.towers.image.cls_token.device

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Named losses, and numbers for the log; see tbps/methods/method.py."""
        task = self.word_task(batch.own, draws)
        encoded = self.encode(batch, task)
        whole = batch.scope.whole(_rows(encoded, task))
        losses, numbers = match_globally(
            encoded.image_BE,
            encoded.caption_BE,
            whole,
            batch,
            classifier=self.classifier,
            weights=self.weights,
            logit_scale=self.logit_scale,
        )
        if task is not None:
            logit_MV = self.guess(encoded, task)
            # The loop averages over the shares of a batch, each of which adds its own words.
            mean_over = whole["masked_words"].sum() / batch.scope.shares
            losses["mlm"] = guessed_words_loss(logit_MV, task.word_M, mean_over=mean_over)
            numbers["words_guessed"] = percent_right(logit_MV, task.word_M).sum() / mean_over
        return losses, numbers

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The rows that `forward` gives to `batch.scope.whole`, computed without anything else."""
        task = self.word_task(batch.own, draws)
        captions = task.text if task is not None and self.mask_text_for_all_losses else self._pack(batch.own)
        encoded = Encoded(
            image_BE=self.towers.image(batch.image_BCHW, pooled=True),
            caption_BE=self.towers.text(captions, pooled=True),
            image_BPE=None,
            masked_NE=None,
        )
        return _rows(encoded, task)

    def word_task(self, captions: Captions, draws: Draws) -> WordTask | None:
        """The captions with masks; None where no word is guessed."""
        if self.word_head is None:
            return None
        masked = mask_captions(captions, draws["mlm"], mask_id=self.mask_id, probability=self.mlm_probability)
        text = pack_captions(masked.token_ids_BL, captions.lengths, device=self.device, padded_to=self.padded_to)
        rows = text.layout.rows(masked.caption_M, masked.place_M)
        row_M, word_M, count_B = upload([rows, masked.word_M, masked.count_B], self.device)
        return WordTask(text=text, row_M=row_M, word_M=word_M, count_B=count_B.float())

    def encode(self, batch: Batch, task: WordTask | None) -> Encoded:
        """Run both towers. The text tower runs once where all losses see masked captions, else once for each kind."""
        if task is None:
            image_BE = self.towers.image(batch.image_BCHW, pooled=True)
            caption_BE = self.towers.text(self._pack(batch.own), pooled=True)
            return Encoded(image_BE=image_BE, caption_BE=caption_BE, image_BPE=None, masked_NE=None)
        image_BPE = self.towers.image(batch.image_BCHW)
        masked_NE = self.towers.text(task.text)
        if self.mask_text_for_all_losses:
            caption_BE = masked_NE.index_select(0, task.text.end_B)
        else:
            caption_BE = self.towers.text(self._pack(batch.own), pooled=True)
        return Encoded(image_BE=image_BPE[:, 0], caption_BE=caption_BE, image_BPE=image_BPE, masked_NE=masked_NE)

    def guess(self, encoded: Encoded, task: WordTask) -> Tensor:
        """(M, V) logits of the masked words: nothing else is computed behind the last block's attention."""
        assert self.cross_former is not None and self.word_head is not None
        assert encoded.masked_NE is not None and encoded.image_BPE is not None
        hidden_ME = self.cross_former(encoded.masked_NE, task.text.packing, encoded.image_BPE, rows_M=task.row_M)
        return self.word_head(hidden_ME)

    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """See tbps/methods/method.py."""
        return EmbeddedImages(feature_IE=unit(self.towers.image(image_BCHW, pooled=True)))

    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """See tbps/methods/method.py."""
        return EmbeddedCaptions(feature_QE=unit(self.towers.text(self._pack(captions), pooled=True)))

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """See tbps/methods/method.py."""
        return unit(self.towers.text.embed_padded(token_id_BL, length_B))

    def _pack(self, captions: Captions) -> PackedText:
        return pack_captions(captions.token_ids_BL, captions.lengths, device=self.device)


def build(config: Irra, *, image_px: tuple[int, int], num_identities: int = 0) -> IrraMethod:
    """The method with random weights. ValueError: identities are classified, and nobody said how many there are."""
    towers = config.towers
    return IrraMethod(
        towers=build_towers(towers, image_px=image_px),
        features=towers.features,
        weights=config.weights.by_name(),
        num_identities=num_identities,
        vocabulary_size=towers.text.vocabulary_size,
        cross_layers=config.cross_layers,
        cross_heads=config.cross_heads,
        logit_scale=config.logit_scale,
        mask_id=config.mask_id,
        mlm_probability=config.mlm_probability,
        mask_text_for_all_losses=config.mask_text_for_all_losses,
        padded_to=towers.text.max_positions if config.padding == "official" else 0,
        quick_gelu=towers.quick_gelu,
    )


def _rows(encoded: Encoded, task: WordTask | None) -> dict[str, Tensor]:
    """What the whole batch must know of each pair: its unit features, and how many of its words are masked."""
    rows = {"image": unit(encoded.image_BE), "caption": unit(encoded.caption_BE)}
    return rows if task is None else rows | {"masked_words": task.count_B}

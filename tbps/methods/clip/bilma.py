"""BiLMa: IRRA's matching of whole images and captions, and two local tasks: to tell masked words, and masked patches.

To tell a masked word is to predict which word stood there; to tell a masked patch, which label (hair, pants, ...) most of
its pixels have in the parsing map of the image. Both are told from what is left of the image and of its caption.

    L = SDM(v, t) + (CE(c, W v) + CE(c, W t)) / 2 + a MLM + b MIM
    MLM = mean over masked words w of -log p(w | masked caption, whole image)
    MIM = mean over masked patches of -log p(label of the patch | masked image, whole caption)

a, b: weights of mlm and mim (alpha, beta in the paper). v and t are the image's [CLS] and the caption's end token,
projected. One transformer over [image || caption] tells words and patches; ranking does not use it, and an export does not
hold it.
Source: BiLMa (ICCV workshops 2023, without public code), on IRRA (arXiv 2303.12501).

What the paper leaves open, and what is done here:
- Parsing maps: a mirrored image exchanges left and right labels, the border of a crop is background, an erased pixel keeps
  its label (`ignore_erased`), background is a label as any other (`ignore_background`); of several labels with as many
  pixels the smallest number wins.
- Words are masked before the text encoder, as in IRRA: its output at a masked word would give the word away. Patches are
  masked behind the image encoder, as the paper writes ("h^{V_m}"): tokens of other patches have seen the masked ones.
- In the place of a masked patch stands one learned vector, always (no random or kept ones); [CLS] is never masked; each
  image has the same number of masked patches, round(m_p N).
- All image tokens get learned positions before the transformer, whose first values are CLIP's table, projected: without
  them all masked patches of an image are one and the same token (`patch_positions`, a control).
- "Unmasked tokens only": MLM sees all image tokens, MIM all tokens of the caption; no pass hides both. SDM and identities
  read captions without masks (`mask_text_for_all_losses`).
- The transformer: 4 blocks of CLIP's kind, as wide as the features, a norm for each side before it; no cross-attention in
  front, as IRRA has. Captions have no padding there. Heads: linear, GELU, norm, linear.
- The factors 1/|V| and 1/|C| of Eq. 1 and 2 are left out: they would silence MLM by 49,408.
- The targets that the paper compares with are not described: squared error of normalised pixels, of their mean, or of the
  image encoder's own token, normalised and detached.

Shapes: B pairs, E features, P = 1 + N image tokens, T packed caption tokens, M masked words or patches, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tbps.config.data import LabelSetName
from tbps.config.methods.bilma import Bilma
from tbps.data.batch import Batch, Draws
from tbps.data.label_sets import LABEL_SETS
from tbps.data.shown_pairs import ShownSplit
from tbps.methods.clip.bilma_exhibits import Shower
from tbps.methods.clip.global_matching import make_classifier, match_globally, percent_right, unit
from tbps.methods.clip.masked_captions import mask_captions
from tbps.methods.clip.patch_task import PatchTask, PatchTelling
from tbps.methods.clip.towers import build_towers
from tbps.methods.exhibit import Exhibit
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, LossesAndNumbers, Method
from tbps.nn.clip_text import PackedText, pack_captions, with_token_ids
from tbps.nn.clip_towers import ClipTowers
from tbps.nn.cross_modal_encoder import CrossModalEncoder, Joint, join
from tbps.nn.packing import upload
from tbps.objectives.guessed_words import guessed_words_loss
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class WordTask:
    """The masked words of a batch, which are to be told; all tensors lie on the device."""

    text: PackedText
    """The masked captions."""
    row_M: Tensor
    """Row of each masked word among the tokens of all [image || caption] sequences (`Joint`)."""
    word_M: Tensor
    """Id of the word that stood there."""
    count_B: Tensor
    """How many words of each caption are masked, as a float; one row for each pair."""


@dataclass(kw_only=True)
class Plan:
    """What a step does with a batch: which words and patches are masked, and where all tokens lie."""

    text: PackedText
    """The captions without masks."""
    joint: Joint
    words: WordTask | None
    patches: PatchTask | None


@dataclass(kw_only=True)
class Encoded:
    """What both towers make of a batch."""

    image_BE: Tensor
    """Features before they are normalised."""
    caption_BE: Tensor
    image_BPE: Tensor | None
    """All projected tokens of the images; None where neither words nor patches are told."""
    text_TE: Tensor | None
    """All tokens of the captions from which patches are told, packed; None where no patches are told."""
    masked_TE: Tensor | None
    """All tokens of the masked captions, packed; None where no words are told."""


class BilmaMethod(Method):
    """Losses: sdm, identity, mlm, mim; each only where it has a weight."""

    encoders = ("towers.image", "towers.text")

    def __init__(
        self,
        *,
        towers: ClipTowers,
        weights: Mapping[str, float],
        classifier: nn.Linear | None,
        cross_modal_encoder: CrossModalEncoder | None,
        telling: PatchTelling,
        label_set: LabelSetName,
        logit_scale: float,
        mask_id: int,
        word_mask_ratio: float,
        mask_text_for_all_losses: bool,
    ) -> None:
        """cross_modal_encoder: None where neither words nor patches are told. label_set: that of the parsing maps."""
        super().__init__(weights=weights)
        self.telling, self.label_set = telling, label_set
        self.logit_scale, self.mask_id, self.word_mask_ratio = logit_scale, mask_id, word_mask_ratio
        self.mask_text_for_all_losses = mask_text_for_all_losses
        self.towers = towers
        self.classifier = classifier
        self.cross_modal_encoder = cross_modal_encoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.towers.image.cls_token.device

    @torch.no_grad()
    def before_first_step(self) -> None:
        """Let the transformer's positions begin as the image tower's, projected as its tokens are."""
        image, encoder = self.towers.image, self.cross_modal_encoder
        if encoder is not None and encoder.positions is not None:
            encoder.positions.copy_(image.projection(image.positions))

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Named losses, and numbers for the log; see tbps/methods/method.py."""
        plan = self.plan(batch, draws)
        encoded = self.encode(batch, plan)
        whole = batch.scope.whole(_rows(encoded, plan))
        losses, numbers = match_globally(
            encoded.image_BE,
            encoded.caption_BE,
            whole,
            batch,
            classifier=self.classifier,
            weights=self.weights,
            logit_scale=self.logit_scale,
        )
        if plan.words is not None:
            logit_MV = self.tell_words(encoded, plan)
            # The loop averages over the shares of a batch, each of which adds its own words.
            mean_over = whole["masked_words"].sum() / batch.scope.shares
            losses["mlm"] = guessed_words_loss(logit_MV, plan.words.word_M, mean_over=mean_over)
            numbers["words_guessed"] = percent_right(logit_MV, plan.words.word_M).sum() / mean_over
        if plan.patches is not None:
            told_MX = self.tell_patches(encoded, plan)
            count_C = whole["masked_patches"].sum(0)
            assert encoded.image_BPE is not None
            loss, more = self.telling.loss(told_MX, plan.patches, count_C, encoded.image_BPE, shares=batch.scope.shares)
            losses |= loss
            numbers |= more
        return losses, numbers

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The rows that `forward` gives to `batch.scope.whole`, computed without anything else."""
        plan = self.plan(batch, draws)
        captions = plan.words.text if plan.words is not None and self.mask_text_for_all_losses else plan.text
        encoded = Encoded(
            image_BE=self.towers.image(batch.image_BCHW, pooled=True),
            caption_BE=self.towers.text(captions, pooled=True),
            image_BPE=None,
            text_TE=None,
            masked_TE=None,
        )
        return _rows(encoded, plan)

    # -- what is masked ------------------------------------------------------------------------------------------------

    def plan(self, batch: Batch, draws: Draws) -> Plan:
        """Choose which words and patches are masked, and say where each token lies."""
        text = pack_captions(batch.own.token_ids_BL, batch.own.lengths, device=self.device)
        joint = join(text.layout, image_tokens=len(self.towers.image.positions), device=self.device)
        return Plan(
            text=text,
            joint=joint,
            words=self._word_task(batch.own, draws, text, joint) if "mlm" in self.weights else None,
            patches=self._patch_task(batch, draws, joint) if "mim" in self.weights else None,
        )

    def _word_task(self, captions: Captions, draws: Draws, text: PackedText, joint: Joint) -> WordTask:
        masked = mask_captions(captions, draws["mlm"], mask_id=self.mask_id, probability=self.word_mask_ratio)
        rows = joint.rows_of_words(masked.caption_M, masked.place_M)
        row_M, word_M, count_B = upload([rows, masked.word_M, masked.count_B], self.device)
        text = with_token_ids(text, masked.token_ids_BL)
        return WordTask(text=text, row_M=row_M, word_M=word_M, count_B=count_B.float())

    def _patch_task(self, batch: Batch, draws: Draws, joint: Joint) -> PatchTask:
        return self.telling.choose(
            draws["patches"].numpy(),
            joint,
            image_BCHW=batch.image_BCHW,
            map_BHW=batch.fields.get(f"parsing_{self.label_set}"),
            erased_BHW=batch.erased_BHW,
        )

    # -- what is computed ----------------------------------------------------------------------------------------------

    def encode(self, batch: Batch, plan: Plan) -> Encoded:
        """Run both towers. The text tower runs once where all losses see masked captions, else once for each kind."""
        if plan.words is None and plan.patches is None:
            image_BE = self.towers.image(batch.image_BCHW, pooled=True)
            caption_BE = self.towers.text(plan.text, pooled=True)
            return Encoded(image_BE=image_BE, caption_BE=caption_BE, image_BPE=None, text_TE=None, masked_TE=None)
        image_BPE = self.towers.image(batch.image_BCHW)
        masked_TE = None if plan.words is None else self.towers.text(plan.words.text)
        if self.mask_text_for_all_losses:
            text_TE = masked_TE
        else:
            text_TE = None if plan.patches is None else self.towers.text(plan.text)
        if text_TE is None:
            caption_BE = self.towers.text(plan.text, pooled=True)
        else:
            caption_BE = text_TE.index_select(0, plan.text.end_B)
        return Encoded(
            image_BE=image_BPE[:, 0], caption_BE=caption_BE, image_BPE=image_BPE, text_TE=text_TE, masked_TE=masked_TE
        )

    def tell_words(self, encoded: Encoded, plan: Plan) -> Tensor:
        """(M, V) logits of the masked words, predicted from the masked captions and the whole images."""
        encoder, words = self.cross_modal_encoder, plan.words
        assert encoder is not None and encoder.word_head is not None and words is not None
        assert encoded.image_BPE is not None and encoded.masked_TE is not None
        return encoder.word_head(encoder(encoded.image_BPE, encoded.masked_TE, plan.joint, rows_M=words.row_M))

    def tell_patches(self, encoded: Encoded, plan: Plan) -> Tensor:
        """(M, X) predictions for the masked patches, made from the masked images and the whole captions."""
        encoder, patches = self.cross_modal_encoder, plan.patches
        assert encoder is not None and encoder.patch_head is not None and patches is not None
        assert encoded.image_BPE is not None and encoded.text_TE is not None
        hidden_ME = encoder(
            encoded.image_BPE, encoded.text_TE, plan.joint, rows_M=patches.row_M, masked_BP=patches.masked_BP
        )
        return encoder.patch_head(hidden_ME)

    @torch.no_grad()
    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """Parsing maps, masked patches, and what answers for masked words and patches; nothing where nothing is told."""
        if self.cross_modal_encoder is None:
            return []
        shower = Shower(
            towers=self.towers,
            encoder=self.cross_modal_encoder,
            telling=self.telling,
            tokeniser=shown.encoder.tokeniser,
            mask_id=self.mask_id,
            label_set=self.label_set,
            grid=self.towers.image.grid,
        )
        return shower.chapters(shown)

    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """See tbps/methods/method.py."""
        return EmbeddedImages(feature_IE=unit(self.towers.image(image_BCHW, pooled=True)))

    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """See tbps/methods/method.py."""
        text = pack_captions(captions.token_ids_BL, captions.lengths, device=self.device)
        return EmbeddedCaptions(feature_QE=unit(self.towers.text(text, pooled=True)))

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """See tbps/methods/method.py."""
        return unit(self.towers.text.embed_padded(token_id_BL, length_B))


def build(config: Bilma, *, image_px: tuple[int, int], num_identities: int = 0) -> BilmaMethod:
    """The method with random weights. ValueError: identities are classified, and nobody said how many there are."""
    towers, weights = config.towers, config.weights
    rows, columns = towers.grid(image_px)
    telling = PatchTelling(
        target=config.patch_target,
        ratio=config.patch_mask_ratio,
        labels=LABEL_SETS[config.label_set].labels,
        patch_px=towers.image.patch_px,
        stride_px=towers.image.step_px,
        features=towers.features,
        ignore_background=config.ignore_background,
        ignore_erased=config.ignore_erased,
    )
    encoder = None
    if weights.mlm or weights.mim:
        encoder = CrossModalEncoder(
            width=towers.features,
            image_tokens=1 + rows * columns,
            layers=config.encoder_layers,
            heads=config.encoder_heads,
            quick_gelu=towers.quick_gelu,
            words=towers.text.vocabulary_size if weights.mlm else 0,
            patch_outputs=telling.outputs if weights.mim else 0,
            positions=config.patch_positions,
        )
    classifier = make_classifier(features=towers.features, num_identities=num_identities) if weights.identity else None
    return BilmaMethod(
        towers=build_towers(towers, image_px=image_px),
        weights=weights.by_name(),
        classifier=classifier,
        cross_modal_encoder=encoder,
        telling=telling,
        label_set=config.label_set,
        logit_scale=config.logit_scale,
        mask_id=config.mask_id,
        word_mask_ratio=config.word_mask_ratio,
        mask_text_for_all_losses=config.mask_text_for_all_losses,
    )


def _rows(encoded: Encoded, plan: Plan) -> dict[str, Tensor]:
    """What the whole batch must know of each pair: its unit features, and how many of its words and patches are masked."""
    rows = {"image": unit(encoded.image_BE), "caption": unit(encoded.caption_BE)}
    if plan.words is not None:
        rows["masked_words"] = plan.words.count_B
    if plan.patches is not None:
        rows["masked_patches"] = plan.patches.count_BC
    return rows

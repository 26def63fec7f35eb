"""Image encoder, BERT and their projections: what has a momentum encoder in the ALBEF family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from tbps.nn.bert import Bert, WordHead
from tbps.nn.packing import padded_packing
from tbps.nn.swin import SwinTransformer
from tbps.nn.vit import VisionTransformer

ImageEncoder = TypeVar("ImageEncoder", VisionTransformer, SwinTransformer)


class DualEncoder(nn.Module, Generic[ImageEncoder]):
    """The encoders, their projections to E dimensions and, where words are predicted, the word head."""

    def __init__(self, *, image_encoder: ImageEncoder, text_encoder: Bert, projection: int, word_head: bool) -> None:
        super().__init__()
        self.image_encoder: ImageEncoder = image_encoder
        self.text_encoder = text_encoder
        self.image_projection = nn.Linear(image_encoder.width, projection)
        self.text_projection = nn.Linear(text_encoder.width, projection)
        self.word_head: WordHead | None = None
        if word_head:
            self.word_head = WordHead(width=text_encoder.width, vocabulary_size=text_encoder.vocabulary_size)

    @property
    def beyond_features(self) -> list[str]:
        """Dotted names of the parts that `image_feature` and `caption_feature` do not read: cross encoder and word head."""
        text = self.text_encoder
        crossing = [f"layers.{index}" for index in range(text.fusion_layer, len(text.layers))]
        crossing += [f"layers.{index}.cross_attention" for index in range(text.first_cross_layer, text.fusion_layer)]
        return [f"text_encoder.{name}" for name in crossing] + ["word_head"] * (self.word_head is not None)

    def image_feature(self, token_BPD: Tensor) -> Tensor:
        """(B, P, D) image tokens to (B, E) unit rows, in float32."""
        return F.normalize(self.image_projection(token_BPD[:, 0]).float(), dim=-1)

    def caption_feature(self, cls_BD: Tensor) -> Tensor:
        """(B, D) [CLS] states of the text encoder to (B, E) unit rows, in float32."""
        return F.normalize(self.text_projection(cls_BD).float(), dim=-1)

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """(B, L) padded captions of `length_B` tokens to (B, E) unit rows."""
        packing = padded_packing(length_B, token_id_BL.shape)
        hidden_ND = self.text_encoder.encode_text(self.text_encoder.embed(token_id_BL.flatten(), packing), packing)
        return self.caption_feature(hidden_ND.index_select(0, packing.first_S))

    def word_logits(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) states of the cross encoder to (M, V) logits."""
        assert self.word_head is not None
        return self.word_head(hidden_MD, self.text_encoder.words.weight)

    def reduced_logits(self, hidden_MD: Tensor, reduced: Callable[[Tensor, int], Tensor], *, rows: int) -> Tensor:
        """What `reduced` makes of `rows` logits at a time and the place of the first, of all joined (`WordHead.forward`)."""
        assert self.word_head is not None
        return self.word_head(hidden_MD, self.text_encoder.words.weight, rows=rows, reduced=reduced)

"""Image encoder, BERT and their projections: what has a momentum encoder in the ALBEF family."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from tbps.nn.bert import Bert, WordHead
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

    def image_feature(self, token_BPD: Tensor) -> Tensor:
        """(B, P, D) image tokens to (B, E) unit rows, in float32."""
        return F.normalize(self.image_projection(token_BPD[:, 0]).float(), dim=-1)

    def caption_feature(self, cls_BD: Tensor) -> Tensor:
        """(B, D) [CLS] states of the text encoder to (B, E) unit rows, in float32."""
        return F.normalize(self.text_projection(cls_BD).float(), dim=-1)

    def word_logits(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) states of the cross encoder to (M, V) logits."""
        assert self.word_head is not None
        return self.word_head(hidden_MD, self.text_encoder.words.weight)

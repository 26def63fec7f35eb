"""What ALBEF, RaSa, MARS, AGA and LAIP share: encoders with a momentum encoder and a queue, contrast, matching, embedding.

Shapes: B pairs in groups of g, N packed tokens, P image tokens, D width, E features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tbps.data.batch import Batch, Draws
from tbps.methods.albef.building import Backbone
from tbps.methods.albef.cross_calls import PackedCaptions, encode_text, pack_captions
from tbps.methods.albef.matching import Matching, Online
from tbps.methods.albef.momentum_queue import MomentumQueue
from tbps.methods.albef.pair_scores import CrossMatcher
from tbps.methods.albef.pending_negatives import PendingNegatives
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, Method
from tbps.nn.dual_encoder import DualEncoder
from tbps.nn.momentum import momentum_copy
from tbps.nn.packing import Index
from tbps.nn.queue import FeatureQueue
from tbps.objectives.itc import Contrast, Features
from tbps.text.token_batch import Captions


class AlbefFamily(Method):
    """Encoders, momentum encoder and queue (`past`) and matching (`matching`). A member adds its heads and `forward`."""

    TRAINERS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Parts, by how their parameters' names begin, that other losses, hard negatives or scores read too: the losses that
    train each."""
    MATCHING: ClassVar[tuple[str, ...]] = ()
    """Losses that need the cross encoder."""
    UNREAD: ClassVar[tuple[str, ...]] = ("momentum_encoder.",)
    """Parts that neither scores nor losses of others read."""

    encoders = ("online.image_encoder", "online.text_encoder")
    copies: ClassVar[Mapping[str, str]] = {"momentum_encoder": "online"}

    def __init__(
        self, backbone: Backbone, *, weights: Mapping[str, float], word_head: bool, momentum_words: bool = False
    ) -> None:
        """momentum_words: a loss reads words of the momentum encoder, which has no cross encoder and word head otherwise."""
        super().__init__(weights=weights)
        self.momentum_dropout, self.padding = backbone.momentum_dropout, backbone.padding
        self.cls_id, self.mask_id = backbone.cls_id, backbone.mask_id
        text = backbone.text_encoder
        self.online = DualEncoder(
            image_encoder=backbone.image_encoder, text_encoder=text, projection=backbone.projection, word_head=word_head
        )
        self.temperature = nn.Parameter(torch.tensor(backbone.temperature))
        self.itm_head = nn.Linear(text.width, 2)
        self.queue = FeatureQueue(num_pairs=backbone.queue_pairs, width=backbone.projection)
        self.momentum_encoder = momentum_copy(self.online, without=() if momentum_words else self.online.beyond_features)
        self.past = MomentumQueue(
            online=self.online,
            momentum_encoder=self.momentum_encoder,
            queue=self.queue,
            momentum=backbone.momentum,
            alpha=backbone.alpha,
            ignore_empty=backbone.empty_queue == "ignored",
        )
        self.matching = Matching(text=text, head=self.itm_head)

    def matches(self) -> bool:
        """Whether a loss with a weight needs the cross encoder."""
        return any(self.weights[name] for name in self.MATCHING)

    def rest_unused(self, *heads: nn.Module) -> None:
        """Stop gradients of what no loss reaches, so that data-parallel training does not wait for them; heads: of matching,
        beside the matching head."""
        if self.matches():
            return
        text = self.online.text_encoder
        unused: list[nn.Module] = [*heads, self.itm_head, *text.layers[text.fusion_layer :]]
        unused += [layer.cross_attention for layer in text.layers if layer.cross_attention is not None]  # type: ignore[misc]
        for module in unused:
            module.requires_grad_(False)

    def untrained(self, *, reranks: bool) -> list[str]:
        """Parameters that no loss with a weight moves, though a loss or scoring reads them or they are carried along.

        reranks: the matching head will score.
        """
        resting = tuple(part for part, losses in self.TRAINERS.items() if not any(self.weights[loss] for loss in losses))
        # What rests for want of a matching loss, only the matching head's scores would read.
        unread = (*self.UNREAD, *(() if reranks else ("itm_head.", "online.text_encoder.")))
        return [
            name
            for name, parameter in self.named_parameters()
            if (not parameter.requires_grad or name.startswith(resting)) and not name.startswith(unread)
        ]

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> AlbefFamily:
        """Training mode; the momentum encoder follows unless `momentum_dropout` is off."""
        super().train(mode)
        self.momentum_encoder.train(mode and self.momentum_dropout)
        return self

    def set_activation_checkpointing(self, on: bool) -> None:
        """See the base class; the momentum encoder keeps nothing for a backward pass."""
        super().set_activation_checkpointing(on)
        for module in self.momentum_encoder.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = False  # type: ignore[assignment]

    def before_first_step(self) -> None:
        """The official code advances the momentum encoder inside forward, so its first step sees one that moved once."""
        self.past.advance()

    def after_step(self) -> None:
        """Queue the features of the whole global batch in its order, advance the momentum encoder."""
        self.past.after_step()

    def first_step_in_words(self) -> str:
        """How much of the queue was empty in the first step since the start, and what that did; empty if nothing was."""
        return self.past.first_step_in_words()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Online encoder: features and all tokens."""
        token_BPD = self.online.image_encoder(image_BCHW)
        return EmbeddedImages(feature_IE=self.online.image_feature(token_BPD), tokens_IPD=token_BPD)

    @torch.no_grad()
    def embed_image_features(self, image_BCHW: Tensor) -> Tensor:
        """Online encoder, whose last layer computes [CLS] alone."""
        return self.online.image_feature(self.online.image_encoder(image_BCHW, first_only=True))

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Online text encoder: features and, where the cross encoder starts from them, the packed states."""
        packed = self.pack_captions(captions)
        hidden_ND = encode_text(self.online.text_encoder, packed)
        feature_QE = self.online.caption_feature(hidden_ND.index_select(0, packed.packing.first_S))
        full = self.online.text_encoder.full_cross_attention
        return EmbeddedCaptions(feature_QE=feature_QE, hidden_ND=None if full else hidden_ND)

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """See tbps/methods/method.py."""
        return self.online.embed_padded(token_id_BL, length_B)

    def matcher(self) -> CrossMatcher:
        """The matching head on the online cross encoder."""
        return CrossMatcher(
            text=self.online.text_encoder, itm_head=self.itm_head, pack=self.pack_captions, device=self.device
        )

    # -- steps of a forward pass -----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the method lives."""
        return self.temperature.device

    def pack_captions(self, captions: Captions, *, group: Index | None = None, padded: bool = False) -> PackedCaptions:
        """Lay captions out on the method's device; group: of each caption; padded: as `padding` "official" has them."""
        return pack_captions(captions, self.device, group=group, padded=padded)

    def encode_online(self, batch: Batch, paired: PackedCaptions) -> Online:
        """Images and paired captions through the online encoders, once."""
        patch_BND = self.online.image_encoder.patches(batch.image_BCHW)
        token_BPD = self.online.image_encoder.encode(patch_BND)
        hidden_ND = encode_text(self.online.text_encoder, paired)
        features = Features(
            image_BE=self.online.image_feature(token_BPD),
            caption_BE=self.online.caption_feature(hidden_ND.index_select(0, paired.packing.first_S)),
        )
        return Online(patch_BND=patch_BND, token_BPD=token_BPD, paired=paired, hidden_ND=hidden_ND, features=features)

    def contrast(
        self, batch: Batch, draws: Draws, online: Online, momentum: Features, *, intra: bool
    ) -> tuple[Contrast, PendingNegatives | None]:
        """The contrasts, and the hard negatives that they lead to; None where nothing is matched."""
        found = self.past.contrast(batch, online.features, momentum, temperature=self.temperature, intra=intra)
        return found, self.matching.start_negatives(batch, draws, found) if self.matches() else None

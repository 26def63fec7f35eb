"""The plain baseline's encoders: what the published ALBEF, RaSa and MARS code computes, written from the formulas.

Captions padded to the longest of the batch, attention as two products around a softmax that is kept, queries, keys and
values of BERT projected one by one, an image's keys and values projected again in every pass. The weights are a method's
own storage.
Shapes: S sequences of L tokens, B images of P tokens, N patches, D width, H heads of d.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.methods.albef.family import AlbefFamily

_FUSED = {
    r"text_encoder\.layers\.\d+\.self_attention\.qkv\.": ("query", "key", "value"),
    r"text_encoder\.layers\.\d+\.cross_attention\.key_value\.": ("key", "value"),
}


class Weights:
    """A method's parameters by name, each a leaf on the same storage; fused projections cut into their parts."""

    def __init__(self, method: torch.nn.Module) -> None:
        self.parts: dict[str, dict[str, Tensor]] = {}
        for name, parameter in method.named_parameters():
            names = next((parts for pattern, parts in _FUSED.items() if re.search(pattern, name)), None)
            pieces = [parameter.detach()] if names is None else parameter.detach().chunk(len(names))
            leaves = [piece.requires_grad_(parameter.requires_grad) for piece in pieces]
            self.parts[name] = dict(zip(names or ("",), leaves))

    def __call__(self, name: str, part: str = "") -> Tensor:
        """One parameter, or one part of a fused one."""
        return self.parts[name][part]

    def leaves(self) -> list[Tensor]:
        """All that are trained."""
        return [leaf for parts in self.parts.values() for leaf in parts.values() if leaf.requires_grad]

    def gradients(self) -> dict[str, Tensor]:
        """Gradient of every trained parameter under the method's name, the parts of fused ones joined."""
        return {
            name: gradients[0] if len(gradients) == 1 else torch.cat(gradients)
            for name, parts in self.parts.items()
            if (gradients := [leaf.grad for leaf in parts.values() if leaf.grad is not None])
        }


def linear(weights: Weights, name: str, x: Tensor, part: str = "", *, bias: bool = True) -> Tensor:
    """x W' + b."""
    return F.linear(x, weights(f"{name}.weight", part), weights(f"{name}.bias", part) if bias else None)


def norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Layer norm over the width."""
    return F.layer_norm(x, x.shape[-1:], weights(f"{name}.weight"), weights(f"{name}.bias"), eps)


def attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int, bias: Tensor | None, dropout: float) -> Tensor:
    """dropout(softmax(q k' / sqrt(d) + bias)) v: (S, Q, D), (S, K, D) to (S, Q, D)."""
    query, key, value = (x.view(*x.shape[:2], heads, -1).permute(0, 2, 1, 3) for x in (query, key, value))
    logit_SHQK = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if bias is not None:
        logit_SHQK = logit_SHQK + bias
    weight_SHQK = F.dropout(logit_SHQK.softmax(-1), dropout)
    return (weight_SHQK @ value).permute(0, 2, 1, 3).contiguous().flatten(2)


class PlainEncoder:
    """ViT, BERT, projections and word head of the online encoder or of its momentum encoder."""

    def __init__(self, method: AlbefFamily, weights: Weights, side: str) -> None:
        encoder = getattr(method, side)
        self.weights, self.side = weights, side
        self.text, self.image = encoder.text_encoder, encoder.image_encoder
        self.dropout = self.text.dropout if encoder.training else 0.0
        self.heads = self.text.layers[0].self_attention.heads

    def patches(self, image_BCHW: Tensor) -> Tensor:
        """(B, N, D) with positions."""
        weights, name = self.weights, f"{self.side}.image_encoder"
        weight, bias = weights(f"{name}.patch_embed.weight"), weights(f"{name}.patch_embed.bias")
        patch_BDhw = F.conv2d(image_BCHW, weight, bias, stride=self.image.patch_px)
        return patch_BDhw.flatten(2).transpose(1, 2) + weights(f"{name}.positions")[:, 1:]

    def encode_image(self, patch_BND: Tensor) -> Tensor:
        """(B, 1 + N, D)."""
        weights, name = self.weights, f"{self.side}.image_encoder"
        cls_11D = weights(f"{name}.cls_token") + weights(f"{name}.positions")[:, :1]
        x = torch.cat([cls_11D.expand(len(patch_BND), -1, -1), patch_BND], dim=1)
        for index, block in enumerate(self.image.blocks):
            own = f"{name}.blocks.{index}"
            query, key, value = linear(weights, f"{own}.qkv", norm(weights, f"{own}.norm1", x, 1e-6)).chunk(3, dim=-1)
            context = attend(query, key, value, heads=block.heads, bias=None, dropout=0.0)
            x = x + linear(weights, f"{own}.out", context)
            hidden = F.gelu(linear(weights, f"{own}.fc1", norm(weights, f"{own}.norm2", x, 1e-6)))
            x = x + linear(weights, f"{own}.fc2", hidden)
        return norm(weights, f"{name}.norm", x, 1e-6)

    def embed(self, token_ids_SL: Tensor) -> Tensor:
        """(S, L, D)."""
        name = f"{self.side}.text_encoder"
        word = F.embedding(token_ids_SL, self.weights(f"{name}.words.weight"), padding_idx=0)
        place_L = torch.arange(token_ids_SL.shape[1], device=token_ids_SL.device)
        position = F.embedding(place_L, self.weights(f"{name}.positions.weight"))
        x = norm(self.weights, f"{name}.norm", word + position + self.weights(f"{name}.token_type")[0], 1e-12)
        return F.dropout(x, self.dropout)

    def encode_text(self, token_ids_SL: Tensor, mask_SL: Tensor) -> Tensor:
        """The text encoder alone: (S, L, D)."""
        return self._layers(self.embed(token_ids_SL), mask_SL, None, range(self.text.fusion_layer))

    def encode_cross(self, token_ids_SL: Tensor, hidden_SLD: Tensor | None, mask_SL: Tensor, image_SPD: Tensor) -> Tensor:
        """The cross encoder, from ids (MARS) or from text states (RaSa): (S, L, D)."""
        x = self.embed(token_ids_SL) if self.text.full_cross_attention else hidden_SLD
        if x is None:
            x = self.encode_text(token_ids_SL, mask_SL)
        return self._layers(x, mask_SL, image_SPD, range(self.text.first_cross_layer, len(self.text.layers)))

    def word_logits(self, hidden_SLD: Tensor) -> Tensor:
        """(S, L, V) at every position."""
        name = f"{self.side}.word_head"
        hidden = norm(self.weights, f"{name}.norm", F.gelu(linear(self.weights, f"{name}.dense", hidden_SLD)), 1e-12)
        return F.linear(hidden, self.weights(f"{self.side}.text_encoder.words.weight"), self.weights(f"{name}.bias"))

    def feature(self, kind: str, cls_BD: Tensor) -> Tensor:
        """Unit rows of [CLS]; kind: image or text."""
        return F.normalize(linear(self.weights, f"{self.side}.{kind}_projection", cls_BD), dim=-1)

    def _layers(self, x: Tensor, mask_SL: Tensor, image_SPD: Tensor | None, layers: range) -> Tensor:
        bias = (1.0 - mask_SL[:, None, None, :].float()) * -10_000.0
        for index in layers:
            name = f"{self.side}.text_encoder.layers.{index}"
            x = self._attention(f"{name}.self_attention", x, x, bias, "qkv", "qkv")
            if image_SPD is not None:
                none = image_SPD.new_zeros(image_SPD.shape[:2])[:, None, None, :]
                x = self._attention(f"{name}.cross_attention", x, image_SPD, none, "query", "key_value")
            hidden = F.gelu(linear(self.weights, f"{name}.fc1", x))
            hidden = F.dropout(linear(self.weights, f"{name}.fc2", hidden), self.dropout)
            x = norm(self.weights, f"{name}.norm", hidden + x, 1e-12)
        return x

    def _attention(self, name: str, x: Tensor, context: Tensor, bias: Tensor, from_x: str, from_context: str) -> Tensor:
        query = linear(self.weights, f"{name}.{from_x}", x, "query" if from_x == "qkv" else "")
        key = linear(self.weights, f"{name}.{from_context}", context, "key")
        value = linear(self.weights, f"{name}.{from_context}", context, "value")
        attended = attend(query, key, value, heads=self.heads, bias=bias, dropout=self.dropout)
        attended = F.dropout(linear(self.weights, f"{name}.out", attended), self.dropout)
        return norm(self.weights, f"{name}.norm", attended + x, 1e-12)


class PlainDecoder:
    """MARS's image decoder."""

    def __init__(self, decoder: Any, weights: Weights) -> None:
        self.weights = weights
        self.depth, self.heads = len(decoder.blocks), decoder.blocks[0].self_attention.heads

    def __call__(self, kept_BPD: Tensor, restore_BN: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, 1 + K, D) encoder output of kept patches to (B, N, pixels of a patch)."""
        weights, (size, kept, width) = self.weights, kept_BPD.shape
        removed = weights("mae_decoder.mask_token").repeat(size, restore_BN.shape[1] - kept + 1, 1)
        shuffled_BND = torch.cat([kept_BPD[:, 1:], removed], dim=1)
        patch_BND = torch.gather(shuffled_BND, 1, restore_BN[..., None].repeat(1, 1, width))
        x = torch.cat([kept_BPD[:, :1], patch_BND], dim=1) + weights("mae_decoder.positions")
        bias = (1.0 - mask_BL[:, None, None, :].float()) * -10_000.0
        for index in range(self.depth):
            name = f"mae_decoder.blocks.{index}"
            normed = norm(weights, f"{name}.norm1", x, 1e-5)
            x = x + self._attention(f"{name}.self_attention", normed, normed, None)
            x = x + self._attention(f"{name}.cross_attention", norm(weights, f"{name}.norm2", x, 1e-5), text_BLD, bias)
            value, gate = linear(weights, f"{name}.fc1", norm(weights, f"{name}.norm3", x, 1e-5)).chunk(2, dim=-1)
            x = x + linear(weights, f"{name}.fc2", value * F.gelu(gate))
        return linear(weights, "mae_decoder.pixels", x)[:, 1:]

    def _attention(self, name: str, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        query = linear(self.weights, f"{name}.query", x, bias=False)
        key = linear(self.weights, f"{name}.key", context, bias=False)
        value = linear(self.weights, f"{name}.value", context, bias=False)
        return linear(self.weights, f"{name}.out", attend(query, key, value, heads=self.heads, bias=bias, dropout=0.0))

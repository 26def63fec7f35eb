"""A plain IRRA: the baseline that ours must equal, and is timed against. Written from the official code's structure.

It does what the published step does: a second pass of the text encoder for masked captions, also where both passes read the
same ids; captions padded to the text encoder's longest; the vocabulary head at every one of these places; torch's attention
layers with one matrix for query, key and value, and a mask of floats; every token of the last blocks. Its keys are the
official ones, so that it takes the weights of ours by name (tbps/convert/irra_names.py).
Two choices are options here: whether captions attend to padding where words are guessed (published: yes), and whether all
losses see masked captions (published: yes).
Shapes: B pairs, L tokens of the longest caption, P image tokens, D width, E features, V words.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.config.methods.irra import Irra
from tbps.objectives.irra_masking import MaskedWords


class PlainAttention(nn.MultiheadAttention):
    """torch's, on sequences first, as the official code calls it."""

    def attend(self, query: Tensor, key: Tensor, *, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """What each query attended to."""
        found: Tensor = self(query, key, key, need_weights=False, attn_mask=mask, key_padding_mask=padding)[0]
        return found


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class PlainBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.attn = PlainAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, intermediate))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("c_proj", nn.Linear(intermediate, width))

    def forward(self, x: Tensor, *, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """(L, B, D) to (L, B, D)."""
        normal = self.ln_1(x)
        x = x + self.attn.attend(normal, normal, mask=mask, padding=padding)
        return x + self.mlp(self.ln_2(x))


class PlainTransformer(nn.Module):
    """Blocks one after another."""

    def __init__(self, width: int, layers: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(PlainBlock(width, heads, intermediate) for _ in range(layers))

    def forward(self, x_BLD: Tensor, *, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = x_BLD.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask=mask, padding=padding)
        return x.transpose(0, 1)


class PlainImageTower(nn.Module):
    """All tokens of an image, projected."""

    def __init__(self, config: Irra, image_px: tuple[int, int]) -> None:
        super().__init__()
        sizes, (rows, columns) = config.towers.image, config.towers.grid(image_px)
        self.conv1 = nn.Conv2d(3, sizes.width, kernel_size=sizes.patch_px, stride=sizes.step_px, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(sizes.width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + rows * columns, sizes.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.transformer = PlainTransformer(sizes.width, sizes.layers, sizes.heads, sizes.intermediate)
        self.proj = nn.Parameter(torch.empty(sizes.width, config.towers.features))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, P, E)."""
        patch_BPD = self.conv1(image_BCHW).flatten(2).transpose(1, 2)
        cls_B1D = self.class_embedding.expand(len(patch_BPD), 1, -1)
        x_BPD = self.ln_pre(torch.cat([cls_B1D, patch_BPD], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(x_BPD)) @ self.proj


class PlainClip(nn.Module):
    """Both towers."""

    def __init__(self, config: Irra, image_px: tuple[int, int]) -> None:
        super().__init__()
        sizes = config.towers.text
        self.visual = PlainImageTower(config, image_px)
        self.transformer = PlainTransformer(sizes.width, sizes.layers, sizes.heads, sizes.intermediate)
        self.token_embedding = nn.Embedding(sizes.vocabulary_size, sizes.width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.max_positions, sizes.width))
        self.ln_final = nn.LayerNorm(sizes.width)
        self.text_projection = nn.Parameter(torch.empty(sizes.width, config.towers.features))

    def encode_text(self, token_ids_BL: Tensor) -> Tensor:
        """(B, L) to (B, L, E)."""
        length = token_ids_BL.shape[1]
        later_LL = torch.full((length, length), -torch.inf, device=token_ids_BL.device).triu_(1)
        x_BLD = self.token_embedding(token_ids_BL) + self.positional_embedding
        return self.ln_final(self.transformer(x_BLD, mask=later_LL)) @ self.text_projection


class PlainWordHead(nn.Module):
    """Linear, QuickGELU, norm, linear."""

    def __init__(self, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.dense, self.gelu, self.ln = nn.Linear(width, width), QuickGelu(), nn.LayerNorm(width)
        self.fc = nn.Linear(width, vocabulary_size)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, V)."""
        return self.fc(self.ln(self.gelu(self.dense(x_BLD))))


class PlainIrra(nn.Module):
    """Losses sdm, identity and mlm of one batch on one device, each unweighted."""

    def __init__(self, config: Irra, *, image_px: tuple[int, int], num_identities: int) -> None:
        super().__init__()
        width, self.config = config.towers.features, config
        self.base_model = PlainClip(config, image_px)
        self.classifier = nn.Linear(width, num_identities)
        self.cross_attn = PlainAttention(width, config.cross_heads)
        self.cross_modal_transformer = PlainTransformer(width, config.cross_layers, config.cross_heads, 4 * width)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlm_head = PlainWordHead(width, config.towers.text.vocabulary_size)

    def forward(
        self, image_BCHW: Tensor, token_ids_BL: Tensor, masked: MaskedWords, identity_B: Tensor
    ) -> dict[str, Tensor]:
        """token_ids_BL: as annotated, padded with 0 to the text encoder's longest, as `masked` is."""
        label_BL = torch.where(masked.chosen_BL, token_ids_BL, 0)
        caption_BL = masked.token_ids_BL if self.config.mask_text_for_all_losses else token_ids_BL
        image_BPE, text_BLE = self.base_model.visual(image_BCHW), self.base_model.encode_text(caption_BL)
        image_BE, end_B = image_BPE[:, 0], caption_BL.argmax(1)
        text_BE = text_BLE[torch.arange(len(end_B), device=end_B.device), end_B]
        masked_BLE = self.base_model.encode_text(masked.token_ids_BL)
        ignored = {"ignore_index": 0}
        classified = [F.cross_entropy(self.classifier(feature_BE), identity_B) for feature_BE in (image_BE, text_BE)]
        word_BLV = self.mlm_head(self.cross_former(masked_BLE, image_BPE, end_B))
        return {
            "sdm": self.sdm(image_BE, text_BE, identity_B),
            "identity": (classified[0] + classified[1]) / 2,
            "mlm": F.cross_entropy(word_BLV.flatten(0, 1), label_BL.flatten(), **ignored),
        }

    def cross_former(self, text_BLE: Tensor, image_BPE: Tensor, end_B: Tensor) -> Tensor:
        """(B, L, E): every place of the padded captions."""
        query, key = self.ln_pre_t(text_BLE).transpose(0, 1), self.ln_pre_i(image_BPE).transpose(0, 1)
        x_BLE = self.cross_attn.attend(query, key).transpose(0, 1)
        padding = None
        if self.config.padding == "masked":
            padding = torch.arange(text_BLE.shape[1], device=end_B.device) > end_B[:, None]
        return self.ln_post(self.cross_modal_transformer(x_BLE, padding=padding))

    def sdm(self, image_BE: Tensor, text_BE: Tensor, identity_B: Tensor) -> Tensor:
        """Both directions added."""
        same_BB = (identity_B[:, None] == identity_B).float()
        target_BB = same_BB / same_BB.sum(1, keepdim=True)
        image_BE, text_BE = (feature / feature.norm(dim=1, keepdim=True) for feature in (image_BE, text_BE))
        t2i_BB = self.config.logit_scale * text_BE @ image_BE.T
        total: Any = 0
        for logit_BB in (t2i_BB.T, t2i_BB):
            difference = F.log_softmax(logit_BB, dim=1) - torch.log(target_BB + 1e-8)
            total = total + (F.softmax(logit_BB, dim=1) * difference).sum(1).mean()
        return total

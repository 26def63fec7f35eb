"""Fusion of image and caption tokens: through a few bottleneck tokens, or by plain cross-attention to all of both.

Both kinds have the same three calls: what is computed of an image before it meets a caption, what of a caption before it
meets an image, and the rest, of pairs. So what is shown many captions is begun once.

Shapes: S pairs, I images, B captions, P image tokens, L caption tokens, F fusion tokens, R wanted rows, D width.
Source: BAMG (Text-based Person Re-identification via Bottlenecks Attention and Masked Graph
Modeling), Eq. 1 to 9; attention bottlenecks: arXiv 2107.00135.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.fusion_block import FusionBlock, Rows, pick

TOKEN_STD = 0.02
"""Standard deviation of the fusion tokens at the start, as of ViT's learned tokens."""


class Fused(NamedTuple):
    """Wanted rows of pairs, after a last norm: (S, R, D) each. A tuple, in which ZeRO-3 finds the tensors of a module."""

    image: Tensor
    text: Tensor


class _Streams(nn.Module):
    """Layers of the image stream and of the text stream, with weights of their own, and their last norms."""

    def __init__(self, *, width: int, layers: int, heads: int, quick_gelu: bool, own_memory: bool) -> None:
        super().__init__()
        self.checkpointing = False

        def stream() -> nn.ModuleList:
            return nn.ModuleList(
                FusionBlock(width=width, heads=heads, quick_gelu=quick_gelu, own_memory=own_memory, layers=layers)
                for _ in range(layers)
            )

        self.image_blocks, self.text_blocks = stream(), stream()
        self.norm_image, self.norm_text = nn.LayerNorm(width), nn.LayerNorm(width)

    def run(
        self,
        block: nn.Module,
        x_SLD: Tensor,
        memory_SKD: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        rows: Rows = None,
    ) -> Tensor:
        """A layer, computed again in backward where `checkpointing` is on."""
        if self.checkpointing and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, x_SLD, memory_SKD, bias=bias, rows=rows, use_reentrant=False)
            return result
        return block(x_SLD, memory_SKD, bias=bias, rows=rows)

    def normed(self, image_SRD: Tensor, text_SRD: Tensor) -> Fused:
        """The last norm of each stream."""
        return Fused(image=self.norm_image(image_SRD), text=self.norm_text(text_SRD))


class FusionTokens(nn.Module):
    """F learned tokens, the same for every sequence."""

    def __init__(self, *, number: int, width: int) -> None:
        super().__init__()
        self.token_FD = nn.Parameter(TOKEN_STD * torch.randn(number, width))

    def forward(self, beside_SLD: Tensor) -> Tensor:
        """(S, L + F, D): the tokens behind each sequence."""
        # Of shape, as len() would be a number that torch.export keeps for good.
        token_SFD = self.token_FD.to(beside_SLD.dtype).expand(beside_SLD.shape[0], -1, -1)
        return torch.cat([beside_SLD, token_SFD], dim=1)


class BottleneckFusion(_Streams):
    """Image and caption meet in F fusion tokens alone (Eq. 6-9).

    [image' | f1] = T([image | f]; image weights), [text' | f2] = T([text | f]; text weights), f' = (f1 + f2) / 2.
    order: `parallel`, as the equations say; `sequential`, as the prose does ("initially with image information, followed by
    text information"): the text layer reads f1 in place of f.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        tokens: int,
        quick_gelu: bool = True,
        order: Literal["parallel", "sequential"] = "parallel",
    ) -> None:
        super().__init__(width=width, layers=layers, heads=heads, quick_gelu=quick_gelu, own_memory=True)
        self.num_tokens, self.sequential = tokens, order == "sequential"
        self.tokens = FusionTokens(number=tokens, width=width)

    def begin_image(self, image_IPD: Tensor) -> Tensor:
        """(I, P + F, D): the first layer, in which an image has met no caption yet."""
        return self.run(self.image_blocks[0], self.tokens(image_IPD))

    def begin_text(self, text_BLD: Tensor, bias_B11L: Tensor | None) -> Tensor:
        """(B, L + F, D): the first layer of captions; in sequence it reads what the image's left, and nothing is begun."""
        joint_BXD = self.tokens(text_BLD)
        if self.sequential:
            return joint_BXD
        return self.run(self.text_blocks[0], joint_BXD, bias=self._longer(bias_B11L))

    def forward(
        self, image_SXD: Tensor, text_SYD: Tensor, bias_S11L: Tensor | None, *, image_rows: Rows, text_rows: Rows
    ) -> Fused:
        """image_SXD, text_SYD: of `begin_image` and `begin_text`, for each pair; bias: of the captions' padding."""
        bias = self._longer(bias_S11L)
        image_SPD, f1_SFD = self._split(image_SXD)
        text_SLD, f2_SFD = self._split(text_SYD)
        if self.sequential:
            text_SLD, f2_SFD = self._split(self.run(self.text_blocks[0], _join(text_SLD, f1_SFD), bias=bias))
        last = len(self.image_blocks) - 1
        for number in range(1, last + 1 if self.sequential else last):
            image_SPD, text_SLD, f1_SFD, f2_SFD = self._layer(number, image_SPD, text_SLD, (f1_SFD + f2_SFD) / 2, bias)
        if self.sequential or last == 0:
            return self.normed(pick(image_SPD, image_rows), pick(text_SLD, text_rows))
        # Nobody reads the last layer's fusion tokens, or rows that are not wanted.
        fusion_SFD = (f1_SFD + f2_SFD) / 2
        image_rows = image_SPD.shape[1] if image_rows is None else image_rows
        text_rows = text_SLD.shape[1] if text_rows is None else text_rows
        return self.normed(
            self.run(self.image_blocks[last], _join(image_SPD, fusion_SFD), rows=image_rows),
            self.run(self.text_blocks[last], _join(text_SLD, fusion_SFD), bias=bias, rows=text_rows),
        )

    def _layer(
        self, number: int, image_SPD: Tensor, text_SLD: Tensor, fusion_SFD: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image and text tokens, and what each stream makes of the fusion tokens, after one layer."""
        image_SPD, f1_SFD = self._split(self.run(self.image_blocks[number], _join(image_SPD, fusion_SFD)))
        read_SFD = f1_SFD if self.sequential else fusion_SFD
        text_SLD, f2_SFD = self._split(self.run(self.text_blocks[number], _join(text_SLD, read_SFD), bias=bias))
        return image_SPD, text_SLD, f1_SFD, f2_SFD

    def looks(self, image_SPD: Tensor, text_SLD: Tensor, bias_S11L: Tensor | None) -> Tensor:
        """What caption tokens see of image tokens, through the fusion tokens: (S, L, P) float32.

        A caption's token attends to fusion tokens, which the image's stream filled in the layer before (in sequence: in the
        same layer). W = sum over layers of (text to fusion) (fusion to image), means over heads.
        """
        bias = self._longer(bias_S11L)
        fusion_SFD = self.tokens(image_SPD)[:, -self.num_tokens :]
        seen_SLP = torch.zeros(len(text_SLD), text_SLD.shape[1], image_SPD.shape[1], device=text_SLD.device)
        before_SFP: Tensor | None = None
        for number, (image_block, text_block) in enumerate(zip(self.image_blocks, self.text_blocks, strict=True)):
            to_image_SXX = image_block.weights(_join(image_SPD, fusion_SFD))  # type: ignore[operator]
            filled_SFP = to_image_SXX[:, -self.num_tokens :, : image_SPD.shape[1]]
            image, text, f1_SFD, f2_SFD = self._layer(number, image_SPD, text_SLD, fusion_SFD, bias)
            read_SFD = f1_SFD if self.sequential else fusion_SFD
            to_fusion_SYY = text_block.weights(_join(text_SLD, read_SFD), bias=bias)  # type: ignore[operator]
            read_from_SFP = filled_SFP if self.sequential else before_SFP
            if read_from_SFP is not None:
                seen_SLP = seen_SLP + to_fusion_SYY[:, : text_SLD.shape[1], -self.num_tokens :] @ read_from_SFP
            image_SPD, text_SLD, fusion_SFD, before_SFP = image, text, (f1_SFD + f2_SFD) / 2, filled_SFP
        return seen_SLP

    def _split(self, joint_SXD: Tensor) -> tuple[Tensor, Tensor]:
        return joint_SXD[:, : -self.num_tokens], joint_SXD[:, -self.num_tokens :]

    def _longer(self, bias_S11L: Tensor | None) -> Tensor | None:
        """The bias with zeros appended for the fusion tokens, to which all may attend."""
        return None if bias_S11L is None else nn.functional.pad(bias_S11L, (0, self.num_tokens))


class CrossFusion(_Streams):
    """Each stream attends to all tokens of both (Eq. 1-5).

    z = [image | text], image' = CT(image, z; image weights), text' = CT(text, z; text weights), CT as of `FusionBlock`.
    """

    def __init__(self, *, width: int, layers: int, heads: int, quick_gelu: bool = True) -> None:
        super().__init__(width=width, layers=layers, heads=heads, quick_gelu=quick_gelu, own_memory=False)

    def begin_image(self, image_IPD: Tensor) -> Tensor:
        """The image itself: its first layer sees the caption already."""
        return image_IPD

    def begin_text(self, text_BLD: Tensor, bias_B11L: Tensor | None) -> Tensor:
        """The caption itself."""
        return text_BLD

    def forward(
        self, image_SPD: Tensor, text_SLD: Tensor, bias_S11L: Tensor | None, *, image_rows: Rows, text_rows: Rows
    ) -> Fused:
        """As of `BottleneckFusion`."""
        bias = _after(image_SPD, bias_S11L)
        last = len(self.image_blocks) - 1
        for number, (image_block, text_block) in enumerate(zip(self.image_blocks, self.text_blocks, strict=True)):
            joint_SZD = _join(image_SPD, text_SLD)
            ends = number == last
            image_SPD = self.run(image_block, image_SPD, joint_SZD, bias=bias, rows=image_rows if ends else None)
            text_SLD = self.run(text_block, text_SLD, joint_SZD, bias=bias, rows=text_rows if ends else None)
        return self.normed(image_SPD, text_SLD)

    def looks(self, image_SPD: Tensor, text_SLD: Tensor, bias_S11L: Tensor | None) -> Tensor:
        """What caption tokens see of image tokens: (S, L, P) float32, sum over layers of the mean over heads."""
        bias = _after(image_SPD, bias_S11L)
        seen_SLP = torch.zeros(len(text_SLD), text_SLD.shape[1], image_SPD.shape[1], device=text_SLD.device)
        for image_block, text_block in zip(self.image_blocks, self.text_blocks, strict=True):
            joint_SZD = _join(image_SPD, text_SLD)
            seen_SLZ = text_block.weights(text_SLD, joint_SZD, bias=bias)  # type: ignore[operator]
            seen_SLP = seen_SLP + seen_SLZ[..., : image_SPD.shape[1]]
            image_SPD, text_SLD = image_block(image_SPD, joint_SZD, bias=bias), text_block(text_SLD, joint_SZD, bias=bias)
        return seen_SLP


def _join(one_SLD: Tensor, other_SFD: Tensor) -> Tensor:
    return torch.cat([one_SLD, other_SFD], dim=1)


def _after(image_SPD: Tensor, bias_S11L: Tensor | None) -> Tensor | None:
    """The bias with zeros put before it for the image's tokens, to which all may attend."""
    return None if bias_S11L is None else nn.functional.pad(bias_S11L, (image_SPD.shape[1], 0))

"""Both kinds of fusion against the printed equations (BAMG, Eq. 1 to 9), pair by pair, with torch's attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion
from tbps.nn.fusion_block import FusionBlock

WIDTH, HEADS, TOKENS, PATCHES = 12, 3, 2, 5
LENGTHS = (4, 7, 1)
Fusion = BottleneckFusion | CrossFusion


def made(kind: str, *, layers: int = 3) -> Fusion:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": WIDTH, "layers": layers, "heads": HEADS}
    fusion: Fusion = CrossFusion(**sizes)
    if kind != "cross":
        fusion = BottleneckFusion(**sizes, tokens=TOKENS, order=kind)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion.double()


def given() -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions with noise as padding, and the bias that hides it."""
    torch.manual_seed(1)
    image = torch.randn(3, PATCHES, WIDTH, dtype=torch.float64)
    text = torch.randn(3, max(LENGTHS), WIDTH, dtype=torch.float64)
    hidden = torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]
    return image, text, (hidden * -1e4)[:, None, None].double()


def layer(block: nn.Module, x: Tensor, memory: Tensor | None) -> Tensor:
    """Eq. 4 and 5 of one unpadded sequence (L, D); memory None: the sequence itself under the same norm (a Transformer)."""
    assert isinstance(block, FusionBlock)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    parts = [block.attention.query, block.attention.key, block.attention.value]
    weights = {
        "in_proj_weight": torch.cat([part.weight for part in parts]),
        "in_proj_bias": torch.cat([part.bias for part in parts]),
        "out_proj.weight": block.attention.out.weight,
        "out_proj.bias": block.attention.out.bias,
    }
    query = block.norm1(x)[None]
    keys = query if memory is None else block.norm_memory(memory)[None]  # type: ignore[misc]
    y = torch.func.functional_call(theirs, weights, (query, keys, keys), {"need_weights": False})[0][0] + x
    hidden = block.fc1(block.norm2(y))
    return block.fc2(hidden * torch.sigmoid(1.702 * hidden)) + y


def plain(fusion: Fusion, kind: str, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """One pair, without padding, as the equations are printed."""
    fsn = None if isinstance(fusion, CrossFusion) else fusion.tokens.token_FD
    for image_block, text_block in zip(fusion.image_blocks, fusion.text_blocks, strict=True):
        if fsn is None:
            z = torch.cat([image, text])  # Eq. 1
            image, text = layer(image_block, image, z), layer(text_block, text, z)  # Eq. 2, 3
            continue
        joint = layer(image_block, torch.cat([image, fsn]), None)  # Eq. 7
        image, fsn1 = joint[:-TOKENS], joint[-TOKENS:]
        joint = layer(text_block, torch.cat([text, fsn1 if kind == "sequential" else fsn]), None)  # Eq. 8
        text, fsn2 = joint[:-TOKENS], joint[-TOKENS:]
        fsn = (fsn1 + fsn2) / 2  # Eq. 9
    return fusion.norm_image(image), fusion.norm_text(text)


KINDS = ["parallel", "sequential", "cross"]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_printed_equations_with_padding_and_gradients(kind: str, layers: int) -> None:
    fusion = made(kind, layers=layers)
    results = []
    for ours in (True, False):
        image, text, bias = given()
        leaves = [image.requires_grad_(), text.requires_grad_(), *fusion.parameters()]
        if ours:
            states = fusion.begin_image(image), fusion.begin_text(text, bias)
            fused = fusion(*states, bias, image_rows=None, text_rows=None)
            images, texts = list(fused.image), [row[:length] for row, length in zip(fused.text, LENGTHS, strict=True)]
        else:
            pairs = [plain(fusion, kind, image[row], text[row, :length]) for row, length in enumerate(LENGTHS)]
            images, texts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        generator = torch.Generator().manual_seed(2)
        total = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (*images, *texts))
        grads = torch.autograd.grad(total, leaves)  # type: ignore[arg-type]
        real = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
        results.append([*images, *texts, grads[0], grads[1] * real[..., None], *grads[2:]])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_wanted_rows_are_those_of_the_whole_and_an_image_is_begun_once(kind: str, layers: int) -> None:
    fusion, (image, text, bias) = made(kind, layers=layers), given()
    image_of, text_of = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 1, 1, 2])
    rows = torch.tensor([[3, 0], [6, 6], [1, 2], [0, 0]])
    states = fusion.begin_image(image)[image_of], fusion.begin_text(text, bias)[text_of]
    some = fusion(*states, bias[text_of], image_rows=1, text_rows=rows)
    all_states = fusion.begin_image(image[image_of]), fusion.begin_text(text[text_of], bias[text_of])
    whole = fusion(*all_states, bias[text_of], image_rows=None, text_rows=None)
    torch.testing.assert_close(some.image, whole.image[:, :1])
    torch.testing.assert_close(some.text, torch.stack([row[index] for row, index in zip(whole.text, rows, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_no_gradient(kind: str) -> None:
    gradients = []
    for on in (False, True):
        fusion, (image, text, bias) = made(kind), given()
        fusion.checkpointing = on
        states = fusion.begin_image(image.requires_grad_()), fusion.begin_text(text.requires_grad_(), bias)
        fused = fusion(*states, bias, image_rows=1, text_rows=None)
        total = fused.image.square().sum() + fused.text[:, 0].square().sum()
        gradients.append(torch.autograd.grad(total, [image, text, *fusion.parameters()]))
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_sees_its_own_image_and_caption_alone_and_the_image_reaches_the_words(kind: str) -> None:
    fusion, (image, text, bias) = made(kind), given()

    def run(image: Tensor, text: Tensor) -> Tensor:
        states = fusion.begin_image(image), fusion.begin_text(text, bias)
        fused = fusion(*states, bias, image_rows=1, text_rows=1)
        return torch.cat([fused.image, fused.text], dim=1)

    before = run(image, text)
    changed = (run(torch.cat([-image[:1], image[1:]]), text) - before).abs().amax(2) > 1e-9
    assert changed.tolist() == [[True, True], [False, False], [False, False]]
    noise = text.clone()
    noise[0, LENGTHS[0] :] = 9.0
    torch.testing.assert_close(run(image, noise), before)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_words_are_products_of_attention(kind: str) -> None:
    fusion, (image, text, bias) = made(kind), given()
    seen = fusion.looks(image, text, bias)
    assert seen.shape == (3, max(LENGTHS), PATCHES) and (seen > 0).all()
    if kind == "cross":
        block = fusion.text_blocks[0]
        one = CrossFusion(width=WIDTH, layers=1, heads=HEADS).double()
        one.text_blocks[0], one.image_blocks[0] = block, fusion.image_blocks[0]
        z = torch.cat([image[0], text[0, : LENGTHS[0]]])
        query = block.attention.query(block.norm1(text[0, :1])).view(1, HEADS, -1)  # type: ignore[union-attr, operator]
        key = block.attention.key(block.norm_memory(z)).view(-1, HEADS, WIDTH // HEADS)  # type: ignore[union-attr, operator]
        weight = torch.stack(
            [F.softmax(query[0, h] @ key[:, h].T / (WIDTH // HEADS) ** 0.5, dim=0) for h in range(HEADS)]
        ).mean(0)
        torch.testing.assert_close(one.looks(image, text, bias)[0, 0], weight[:PATCHES].float(), atol=1e-6, rtol=1e-5)
        return
    # A map of one layer alone: through fusion tokens, which at first hold nothing of the image.
    one = made(kind, layers=1)
    first = one.looks(image, text, bias)
    assert bool((first > 0).all()) == (kind == "sequential")

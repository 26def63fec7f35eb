"""BiLMa's cross-modal encoder against torch's layers on padded sequences, with gradients; masks and positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbps.nn.clip_block import quick_gelu
from tbps.nn.cross_modal_encoder import CrossModalEncoder, Joint, TokenHead, join
from tbps.nn.packing import Layout, lay_out

WIDTH, HEADS, LAYERS, PATCHES = 16, 2, 3, 6
TOKENS = 1 + PATCHES
LENGTHS = (5, 9, 2)
CPU = torch.device("cpu")
MASKED = torch.tensor([[0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1, 1]]).bool()


def encoder(**changes: Any) -> CrossModalEncoder:
    torch.manual_seed(0)
    options = {"width": WIDTH, "image_tokens": TOKENS, "layers": LAYERS, "heads": HEADS, "words": 11, "patch_outputs": 4}
    made = CrossModalEncoder(**{**options, "quick_gelu": True, **changes})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.double()


def given() -> tuple[Tensor, list[Tensor], Tensor, Layout, Joint]:
    """Image tokens, the tokens of each caption alone and packed, and where they lie."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(len(LENGTHS), TOKENS, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    texts = [torch.randn(each, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True) for each in LENGTHS]
    text = lay_out(LENGTHS)
    return image, texts, torch.cat(texts), text, join(text, image_tokens=TOKENS, device=CPU)


def theirs(layer: nn.Module) -> nn.MultiheadAttention:
    """torch's layer with the weights of ours: the same parameters, so that gradients meet there."""
    made = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    parts = [layer.query, layer.key, layer.value]
    del made.in_proj_weight, made.in_proj_bias, made.out_proj
    made.in_proj_weight = torch.cat([part.weight for part in parts])  # type: ignore[assignment]
    made.in_proj_bias = torch.cat([part.bias for part in parts])  # type: ignore[assignment]
    made.out_proj = layer.out
    return made


def naive(ours: CrossModalEncoder, image: Tensor, texts: list[Tensor], masked: Tensor | None) -> tuple[Tensor, Tensor]:
    """Padded [image || caption] (B, L, D) after the blocks, and the last block's attention (B, L, L), mean over heads."""
    longest = TOKENS + max(LENGTHS)
    rows, pads = [], []
    for number, text in enumerate(texts):
        tokens = []
        for place in range(TOKENS):
            hidden = masked is not None and bool(masked[number, place])
            token = ours.mask_token if hidden else image[number, place]
            tokens.append(token if ours.positions is None else token + ours.positions[place])
        tokens = [ours.norm_image(torch.stack(tokens)), ours.norm_text(text)]
        padding = torch.full((longest - TOKENS - len(text), WIDTH), 7.0, dtype=torch.float64)  # nobody reads it
        rows.append(torch.cat([*tokens, padding]))
        pads.append(torch.arange(longest) >= TOKENS + len(text))
    x, pad = torch.stack(rows), torch.stack(pads)
    for block in ours.blocks:
        query = block.norm1(x)
        attended, weights = theirs(block.attention)(query, query, query, key_padding_mask=pad)
        x = x + attended
        x = x + block.fc2(quick_gelu(block.fc1(block.norm2(x))))
    return ours.norm_post(x), weights


def wanted(joint: Joint) -> tuple[Tensor, list[tuple[int, int]]]:
    """Joint rows of all masked patches and of the last two words of each caption, and where a padded reader finds them."""
    image, place = MASKED.numpy().nonzero()
    caption = torch.arange(len(LENGTHS)).repeat_interleave(2).numpy()
    word = (torch.tensor(LENGTHS).repeat_interleave(2) - torch.tensor([1, 2] * len(LENGTHS))).numpy()
    rows = [*joint.rows_of_patches(image, place - 1), *joint.rows_of_words(caption, word)]
    places = [*zip(image, place, strict=True), *zip(caption, TOKENS + word, strict=True)]
    return torch.tensor(rows), [(int(one), int(other)) for one, other in places]


@pytest.mark.parametrize("masked", [None, MASKED])
@pytest.mark.parametrize("positions", [True, False])
def test_equals_torchs_attention_on_padded_sequences_with_gradients(masked: Tensor | None, positions: bool) -> None:
    ours = encoder(positions=positions)
    image, texts, packed, _, joint = given()
    rows, places = wanted(joint)
    found = ours(image, packed, joint, rows_M=rows, masked_BP=masked)
    padded, _ = naive(ours, image, texts, masked)
    expected = torch.stack([padded[sequence, place] for sequence, place in places])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    parameters = {name: each for name, each in ours.named_parameters() if "head" not in name}
    if masked is None:
        del parameters["mask_token"]
    leaves = [image, *texts, *parameters.values()]
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pairs = zip(torch.autograd.grad((found * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves))
    for ours_gradient, theirs_gradient in pairs:
        torch.testing.assert_close(ours_gradient, theirs_gradient, rtol=1e-8, atol=1e-8)


def test_what_a_row_attends_to_is_the_last_blocks_attention() -> None:
    ours = encoder()
    image, texts, packed, _, joint = given()
    rows, places = wanted(joint)
    _, weights = naive(ours, image, texts, MASKED)
    expected = torch.stack([weights[sequence, place] for sequence, place in places])
    found = ours.attended(image, packed, joint, rows_M=rows, masked_BP=MASKED)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    assert found.shape[1] == TOKENS + max(LENGTHS) and found[-1, TOKENS + LENGTHS[-1] :].abs().max() < 1e-9


@torch.no_grad()
def test_a_masked_patch_sees_its_image_and_caption_and_nothing_that_it_hides() -> None:
    ours = encoder()
    image, _, packed, text, joint = given()
    rows, places = wanted(joint)
    before = ours(image, packed, joint, rows_M=rows, masked_BP=MASKED)
    hidden = torch.where(MASKED[..., None], torch.randn_like(image), image)
    assert torch.equal(ours(hidden, packed, joint, rows_M=rows, masked_BP=MASKED), before)
    image[1, 2] *= -1  # not masked
    changed = (ours(image, packed, joint, rows_M=rows, masked_BP=MASKED) - before).abs().amax(1) > 1e-9
    assert changed.tolist() == [sequence == 1 for sequence, _ in places]
    image[1, 2] *= -1
    packed[text.rows(*torch.tensor([[2], [0]]).numpy())] *= -1
    changed = (ours(image, packed, joint, rows_M=rows, masked_BP=MASKED) - before).abs().amax(1) > 1e-9
    assert changed.tolist() == [sequence == 2 for sequence, _ in places]


@torch.no_grad()
@pytest.mark.parametrize("positions", [True, False])
def test_without_positions_the_masked_patches_of_an_image_are_one_and_the_same(positions: bool) -> None:
    ours = encoder(positions=positions)
    image, _, packed, _, joint = given()
    rows = torch.from_numpy(joint.rows_of_patches(*torch.tensor([[2] * 6, [0, 1, 2, 3, 4, 5]]).numpy()))
    found = ours(image, packed, joint, rows_M=rows, masked_BP=MASKED)
    same = torch.allclose(found, found[:1].expand_as(found), atol=1e-9)
    assert same == (not positions)


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        ours = encoder()
        ours.blocks.checkpointing = checkpointing
        image, texts, packed, _, joint = given()
        ours(image, packed, joint, rows_M=wanted(joint)[0], masked_BP=MASKED).square().sum().backward()
        gradients.append([each.grad for each in (image, *texts, *ours.parameters()) if each.grad is not None])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_a_head_without_outputs_is_left_out() -> None:
    words, patches = encoder(patch_outputs=0), encoder(words=0)
    assert words.patch_head is None and words.mask_token is None and words.word_head is not None
    assert patches.word_head is None and patches.mask_token is not None


def test_the_head_is_linear_gelu_norm_linear() -> None:
    torch.manual_seed(0)
    head = TokenHead(width=WIDTH, outputs=11, layers=LAYERS)
    hidden = torch.randn(4, WIDTH)
    dense = hidden @ head.dense.weight.T + head.dense.bias
    active = dense * 0.5 * (1 + torch.erf(dense / 2**0.5))
    normal = (active - active.mean(1, keepdim=True)) / (active.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(head(hidden), normal @ head.out.weight.T + head.out.bias, atol=1e-5)
    assert head(hidden[:0]).shape == (0, 11)

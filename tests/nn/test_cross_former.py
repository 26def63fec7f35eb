"""IRRA's cross-modal encoder against torch's own attention layers, with padding attended or masked; its head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tbps.nn.clip_block import quick_gelu
from tbps.nn.clip_text import PackedText, pack_captions
from tbps.nn.cross_former import CrossFormer, WordHead

WIDTH, HEADS, LAYERS, TOKENS = 16, 2, 3, 9
LENGTHS = (5, 9, 2)


def former(seed: int = 0) -> CrossFormer:
    torch.manual_seed(seed)
    made = CrossFormer(width=WIDTH, layers=LAYERS, heads=HEADS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.double()


def packed(*, padded_to: int = 0) -> PackedText:
    ids = torch.zeros(len(LENGTHS), TOKENS, dtype=torch.int64)
    return pack_captions(ids, LENGTHS, device=torch.device("cpu"), padded_to=padded_to)


def given(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens of the padded captions (B, L, D) and of the images (B, P, D)."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(len(LENGTHS), TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    return text, torch.randn(len(LENGTHS), 7, WIDTH, generator=generator, dtype=torch.float64)


def packed_rows(text_BLD: Tensor, text: PackedText) -> Tensor:
    return text_BLD[torch.from_numpy(text.layout.sequence_N), text.packing.position_N]


def theirs(layer: nn.Module) -> nn.MultiheadAttention:
    """torch's layer with the weights of ours."""
    made = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    parts = [layer.query, layer.key, layer.value]
    made.in_proj_weight.data = torch.cat([part.weight for part in parts])
    made.in_proj_bias.data = torch.cat([part.bias for part in parts])
    made.out_proj.load_state_dict(layer.out.state_dict())
    return made


def naive(ours: CrossFormer, text_BLD: Tensor, image_BPD: Tensor, masked_BL: Tensor | None) -> Tensor:
    """The module written from the official code with torch's attention, padded."""
    key = ours.norm_image(image_BPD)
    x = theirs(ours.cross_attention)(ours.norm_text(text_BLD), key, key, need_weights=False)[0]
    for block in ours.blocks:
        query = block.norm1(x)
        x = x + theirs(block.attention)(query, query, query, key_padding_mask=masked_BL, need_weights=False)[0]
        x = x + block.fc2(quick_gelu(block.fc1(block.norm2(x))))
    return ours.norm_post(x)


@pytest.mark.parametrize("padding", ["masked", "official"])
def test_equals_torchs_attention(padding: str) -> None:
    ours, (text, image) = former(), given()
    layout = packed(padded_to=TOKENS if padding == "official" else 0)
    masked = torch.arange(TOKENS) >= torch.tensor(LENGTHS)[:, None] if padding == "masked" else None
    expected = packed_rows(naive(ours, text, image, masked), layout)
    assert torch.allclose(ours(packed_rows(text, layout), layout.packing, image), expected, atol=1e-6)


def test_attended_padding_changes_what_real_tokens_become() -> None:
    ours, (text, image) = former(), given()
    masked, official = packed(), packed(padded_to=TOKENS)
    without = ours(packed_rows(text, masked), masked.packing, image)
    with_padding = ours(packed_rows(text, official), official.packing, image)
    real = torch.from_numpy(official.layout.position_N < torch.tensor(LENGTHS).numpy()[official.layout.sequence_N])
    assert not torch.allclose(without, with_padding[real], atol=1e-3)


@pytest.mark.parametrize("padded_to", [0, TOKENS])
def test_wanted_rows_alone_are_those_of_the_whole(padded_to: int) -> None:
    ours, (text, image) = former(), given()
    layout = packed(padded_to=padded_to)
    rows = torch.tensor([1, 4, 7, 12])
    tokens = packed_rows(text, layout)
    whole = ours(tokens, layout.packing, image)
    assert torch.allclose(ours(tokens, layout.packing, image, rows_M=rows), whole[rows], atol=1e-12)
    none = ours(tokens, layout.packing, image, rows_M=rows[:0])
    assert none.shape == (0, WIDTH)


def test_a_caption_looks_at_its_own_image_alone() -> None:
    ours, (text, image) = former(), given()
    layout = packed()
    tokens = packed_rows(text, layout)
    before = ours(tokens, layout.packing, image)
    image[1] = -image[1]
    changed = (ours(tokens, layout.packing, image) - before).abs().amax(1) > 1e-9
    assert changed.tolist() == (layout.layout.sequence_N == 1).tolist()


@pytest.mark.parametrize("padded_to", [0, TOKENS])
def test_activation_checkpointing_changes_no_gradient(padded_to: int) -> None:
    layout, rows = packed(padded_to=padded_to), torch.tensor([0, 3, 8])
    gradients = []
    for checkpointing in (False, True):
        ours, (text, image) = former(), given()
        ours.blocks.checkpointing = checkpointing
        inputs = [packed_rows(text, layout).requires_grad_(), image.requires_grad_()]
        ours(inputs[0], layout.packing, inputs[1], rows_M=rows).square().sum().backward()
        gradients.append([tensor.grad for tensor in (*inputs, *ours.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_the_head_is_linear_quick_gelu_norm_linear() -> None:
    torch.manual_seed(0)
    head = WordHead(width=WIDTH, vocabulary_size=11, layers=LAYERS)
    hidden = torch.randn(4, WIDTH)
    dense = hidden @ head.dense.weight.T + head.dense.bias
    active = dense * torch.sigmoid(1.702 * dense)
    normal = (active - active.mean(1, keepdim=True)) / (active.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(head(hidden), normal @ head.words.weight.T + head.words.bias, atol=1e-5)
    assert head(hidden[:0]).shape == (0, 11)


def test_weights_start_as_in_the_official_code() -> None:
    torch.manual_seed(0)
    width, layers = 256, 4
    ours, head = CrossFormer(width=width, layers=layers, heads=4), WordHead(width=width, vocabulary_size=999, layers=layers)
    small = width**-0.5 * (2 * layers) ** -0.5
    attention, block = ours.cross_attention, ours.blocks[3]
    for layer, spread in (
        (attention.query, width**-0.5),
        (attention.out, small),
        (block.attention.value, width**-0.5),
        (block.attention.out, small),
        (block.fc1, (2 * width) ** -0.5),
        (block.fc2, small),
        (head.dense, (2 * width) ** -0.5),
        (head.words, small),
    ):
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.03)

"""CLIP's towers: open_clip's own forward, whole and pooled, packed text, bfloat16, activation checkpointing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.convert.clip_names import from_clip, to_clip
from tbps.methods.clip.towers import build_towers
from tbps.nn.clip_block import ClipBlock, quick_gelu
from tbps.nn.clip_text import PackedText, pack_captions
from tbps.nn.clip_towers import ClipTowers
from tbps.nn.packing import lay_out

CPU = torch.device("cpu")
SMALL = ClipSizes(
    image=ImageTowerSizes(width=24, layers=3, heads=2, intermediate=96, patch_px=8),
    text=TextTowerSizes(width=16, layers=3, heads=2, intermediate=64, vocabulary_size=50, max_positions=20),
    features=12,
)
WIDE = ClipSizes(  # open_clip's ViT-B-32-256 with fewer layers, a wider feed-forward part and narrower heads
    image=ImageTowerSizes(width=96, layers=2, heads=6, intermediate=400, patch_px=32),
    text=TextTowerSizes(width=64, layers=2, heads=4, intermediate=256),
    features=40,
    quick_gelu=False,
)


class Wrapped(nn.Module):
    """The towers where a method has them."""

    def __init__(self, towers: ClipTowers) -> None:
        super().__init__()
        self.towers = towers


def small() -> ClipTowers:
    torch.manual_seed(0)
    towers = build_towers(SMALL, image_px=(32, 16))
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return towers


def captions(*lengths: int, size: int = 50) -> tuple[Tensor, tuple[int, ...]]:
    """Start token, words, end token (the largest id), zeros."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, size - 2, (len(lengths), max(lengths)), generator=generator)
    ids[:, 0] = size - 2
    for row, length in enumerate(lengths):
        ids[row, length - 1] = size - 1
        ids[row, length:] = 0
    return ids, lengths


def packed(*lengths: int, size: int = 50, **options: Any) -> PackedText:
    return pack_captions(*captions(*lengths, size=size), device=CPU, **options)


def theirs(sizes: ClipSizes, image_px: tuple[int, int]) -> Any:
    """open_clip's model of the same sizes with random weights that leave nothing at 0 or 1."""
    image, text = sizes.image, sizes.text
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        embed_dim=sizes.features,
        quick_gelu=sizes.quick_gelu,
        vision_cfg={
            "image_size": image_px,
            "layers": image.layers,
            "width": image.width,
            "head_width": image.width // image.heads,
            "mlp_ratio": image.intermediate / image.width,
            "patch_size": image.patch_px,
            "output_tokens": True,
        },
        text_cfg={
            "context_length": text.max_positions,
            "vocab_size": text.vocabulary_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("sizes", "image_px"),
    [(ClipSizes(), (384, 128)), (ClipSizes(quick_gelu=False), (224, 224)), (WIDE, (256, 128))],
    ids=["ViT-B-16-quickgelu", "ViT-B-16", "another size"],
)
def test_towers_equal_open_clip(sizes: ClipSizes, image_px: tuple[int, int]) -> None:
    model = theirs(sizes, image_px)
    ours = Wrapped(build_towers(sizes, image_px=image_px))
    tensors, unplaced = from_clip(model.state_dict())
    assert unplaced == []
    del tensors["logit_scale"]
    ours.load_state_dict(tensors, strict=True)
    image = torch.randn(2, 3, *image_px)
    ids, lengths = captions(9, 21, 77, size=49_408)
    text = pack_captions(ids, lengths, device=CPU)
    feature, patches = model.visual(image)
    tokens = ours.towers.image(image)
    assert torch.allclose(ours.towers.image(image, pooled=True), feature, atol=1e-5, rtol=0)
    assert torch.allclose(tokens[:, 0], feature, atol=1e-5, rtol=0)
    assert torch.allclose(tokens[:, 1:], patches @ model.visual.proj, atol=1e-5, rtol=0)
    expected = model.encode_text(ids)
    assert torch.allclose(ours.towers.text(text, pooled=True), expected, atol=1e-5, rtol=0)
    assert torch.allclose(ours.towers.text(text)[text.end_B], expected, atol=1e-5, rtol=0)
    back = to_clip(ours.state_dict())
    assert all(torch.equal(back.pop(name), tensor) for name, tensor in model.state_dict().items() if name in back)
    assert back == {}


def test_a_caption_does_not_depend_on_its_neighbours() -> None:
    text = small().text
    together = text(packed(5, 20, 2, 11))
    ids, lengths = captions(5, 20, 2, 11)
    start = 0
    for row, length in enumerate(lengths):
        alone = text(pack_captions(ids[row : row + 1, :length], [length], device=CPU))
        assert torch.allclose(together[start : start + length], alone, atol=1e-6)
        start += length


def test_computed_padding_reads_its_id_and_changes_no_real_token() -> None:
    text = small().text
    ids, lengths = captions(5, 20, 2)
    whole = pack_captions(ids, lengths, device=CPU, padded_to=20, pad_id=7)
    padded_BLE = text(whole).view(3, 20, 12)
    cropped = text(packed(5, 20, 2))
    real = torch.cat([padded_BLE[row, :length] for row, length in enumerate(lengths)])
    assert torch.allclose(real, cropped, atol=1e-6)
    assert torch.allclose(text(whole, pooled=True), text(packed(5, 20, 2), pooled=True), atol=1e-6)
    assert (whole.token_id_N.view(3, 20)[0, 5:] == 7).all()
    other = text(replace(whole, token_id_N=whole.token_id_N.clamp_min(8)))
    assert not torch.allclose(other.view(3, 20, 12)[0, 5:], padded_BLE[0, 5:], atol=1e-3)


def test_pooled_text_is_the_end_token() -> None:
    text, captions_ = small().text, packed(5, 20, 2)
    assert torch.allclose(text(captions_, pooled=True), text(captions_)[captions_.end_B], atol=1e-6)
    assert captions_.end_B.tolist() == [4, 24, 26]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_feature_costs_less_than_all_tokens(tower: str) -> None:
    towers, flops = small(), []
    for pooled in (False, True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if tower == "image":
                towers.image(torch.randn(2, 3, 32, 16), pooled=pooled)
            else:
                towers.text(packed(5, 20, 2), pooled=pooled)
        flops.append(counter.get_total_flops())
    assert flops[1] < 0.85 * flops[0]  # of three blocks most of the last one is left out


def test_a_block_without_a_causal_mask_masks_padding() -> None:
    torch.manual_seed(0)
    block = ClipBlock(width=16, heads=2, intermediate=32, quick_gelu=True)
    first, second = torch.randn(1, 3, 16), torch.randn(1, 7, 16)
    packing = lay_out([3, 7]).to(CPU)
    together = block(torch.cat([first[0], second[0]]), packing)
    assert torch.allclose(together[:3], block(first)[0], atol=1e-6)
    assert torch.allclose(together[3:], block(second)[0], atol=1e-6)


def test_quick_gelu_is_its_formula() -> None:
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    assert torch.allclose(quick_gelu(x), x * torch.sigmoid(1.702 * x), atol=1e-12)


@pytest.mark.parametrize("pooled", [False, True])
def test_activation_checkpointing_changes_no_gradient(pooled: bool) -> None:
    outcomes = []
    for on in (False, True):
        towers = small()
        towers.image.blocks.checkpointing = towers.text.blocks.checkpointing = on
        torch.manual_seed(3)
        loss = towers.image(torch.randn(2, 3, 32, 16), pooled=pooled).square().sum()
        loss = loss + towers.text(packed(5, 20, 2), pooled=pooled).square().sum()
        loss.backward()
        outcomes.append([loss, *(parameter.grad for parameter in towers.parameters())])
    for plain, recomputed in zip(*outcomes, strict=True):
        assert plain is not None and recomputed is not None
        assert torch.equal(plain, recomputed)


def test_checkpointing_keeps_less_for_backward() -> None:
    kept = {}
    for on in (False, True):
        towers, sizes = small(), []
        towers.image.blocks.checkpointing = towers.text.blocks.checkpointing = on
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):  # type: ignore[misc]
            towers.image(torch.randn(4, 3, 32, 16))
        kept[on] = sum(sizes)
    assert kept[True] < kept[False] / 3


@torch.no_grad()
def test_bfloat16_autocast_stays_near_float32() -> None:
    towers = small()
    image, text = torch.randn(2, 3, 32, 16), packed(5, 20, 2)
    exact = towers.image(image, pooled=True), towers.text(text, pooled=True)
    with torch.autocast("cpu", torch.bfloat16):
        rough = towers.image(image, pooled=True), towers.text(text, pooled=True)
    for one, other in zip(exact, rough, strict=True):
        assert torch.nn.functional.cosine_similarity(one, other.float()).min() > 0.999
        assert not torch.equal(one, other.float())


def test_overlapping_patches() -> None:
    sizes = replace(SMALL, image=replace(SMALL.image, stride_px=6))
    assert sizes.grid((32, 16)) == (5, 2)
    assert build_towers(sizes, image_px=(32, 16)).image(torch.randn(1, 3, 32, 16)).shape == (1, 11, 12)


UNFIT = {
    "heads of the image tower": (
        lambda: ImageTowerSizes(width=64, heads=3),
        "method.towers.image.width is 64, expected a multiple of method.towers.image.heads (3); change one of them",
    ),
    "heads of the text tower": (
        lambda: TextTowerSizes(width=64, heads=3),
        "method.towers.text.width is 64, expected a multiple of method.towers.text.heads (3); change one of them",
    ),
    "gaps between patches": (
        lambda: ImageTowerSizes(stride_px=17),
        "method.towers.image.stride_px is 17, expected at most method.towers.image.patch_px (16): pixels between the",
    ),
    "half a patch": (
        lambda: ClipSizes().grid((384, 120)),
        "data.image_px is 384 120, expected multiples of method.towers.image.patch_px (16); change one of them",
    ),
    "less than a patch": (
        lambda: ClipSizes(image=ImageTowerSizes(stride_px=12)).grid((384, 8)),
        "data.image_px is 384 8, expected at least method.towers.image.patch_px (16); change one of them",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_sizes_that_do_not_fit_are_named(name: str) -> None:
    make, sentence = UNFIT[name]
    with pytest.raises(ValueError) as raised:
        make()
    assert sentence in str(raised.value)


def test_random_weights_have_the_spread_of_the_official_code() -> None:
    block = build_towers(replace(WIDE, image=replace(WIDE.image, intermediate=384)), image_px=(64, 64)).image.blocks[1]
    width, layers = 96, 2
    expected = {
        "attention.query": width**-0.5,
        "attention.out": width**-0.5 * (2 * layers) ** -0.5,
        "fc1": (2 * width) ** -0.5,
        "fc2": width**-0.5 * (2 * layers) ** -0.5,
    }
    for name, std in expected.items():
        layer = block.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()

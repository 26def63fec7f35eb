"""CLIP's weights through the converter that users call, against IRRA's own loader and open_clip's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import recording
from safetensors.torch import save_file
from torch import Tensor, nn

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.convert.clip import load_clip
from tbps.convert.clip_names import to_clip
from tbps.convert.foreign import convert
from tbps.convert.weights import load_weights
from tbps.methods.clip.towers import build_towers
from tbps.nn.clip_text import pack_captions

CLOSE = {"atol": 2e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return recording("clip_loading")


@pytest.fixture(scope="module")
def file(recorded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state dict as OpenAI names it, in a file."""
    path: Path = tmp_path_factory.mktemp("clip") / "openai.safetensors"
    save_file({name.removeprefix("weights."): t for name, t in recorded[1].items() if name.startswith("weights.")}, path)
    return path


def sizes(about: dict[str, Any], **changes: Any) -> ClipSizes:
    config, heads = about["config"], about["derived"]["heads"]
    image = ImageTowerSizes(
        width=config["vision_width"],
        layers=config["vision_layers"],
        heads=heads["vision"],
        intermediate=4 * config["vision_width"],
        patch_px=config["patch"],
    )
    text = TextTowerSizes(
        width=config["text_width"],
        layers=config["text_layers"],
        heads=heads["text"],
        intermediate=4 * config["text_width"],
        vocabulary_size=config["vocab_size"],
        max_positions=config["context_length"],
    )
    return replace(ClipSizes(image=image, text=text, features=config["embed_dim"]), **changes)


class Loaded(nn.Module):
    """A method with the towers and nothing else, and the recorded inputs through them."""

    def __init__(self, recorded: Any, file: Path, sizes: ClipSizes) -> None:
        super().__init__()
        about, self.tensors = recorded
        self.towers = build_towers(sizes, image_px=tuple(about["config"]["target"]))
        self.report = load_clip(self, str(file))

    @torch.no_grad()
    def image(self, *, pooled: bool = False) -> Tensor:
        found: Tensor = self.towers.image(self.tensors["inputs.images"], pooled=pooled)
        return found

    @torch.no_grad()
    def text(self, *, pooled: bool = False, padded: bool = False) -> Tensor:
        ids = self.tensors["inputs.text_ids"]
        lengths = (ids.argmax(1) + 1).tolist()
        captions = pack_captions(ids, lengths, device=torch.device("cpu"), padded_to=ids.shape[1] if padded else 0)
        found: Tensor = self.towers.text(captions, pooled=pooled)
        return found.view(*ids.shape, -1) if padded else found


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, **CLOSE)  # type: ignore[arg-type]


def test_tokens_features_and_positions_equal_irra(recorded: Any, file: Path) -> None:
    about, tensors = recorded
    loaded = Loaded(recorded, file, sizes(about))
    assert loaded.report.resized == ["towers.image.positions"]
    assert loaded.report.missing == []
    assert loaded.report.unplaced == ["logit_scale"]
    assert close(loaded.towers.image.positions, tensors["expected.pos_embed_resized"])
    assert close(loaded.image(), tensors["expected.irra.image_tokens"])
    assert close(loaded.image(pooled=True), tensors["expected.irra.image_feat"])
    assert close(loaded.text(padded=True), tensors["expected.irra.text_tokens"])
    assert close(loaded.text(pooled=True), tensors["expected.irra.text_feat"])


def test_overlapping_patches_equal_irra(recorded: Any, file: Path) -> None:
    about, tensors = recorded
    base = sizes(about)
    stride = about["config"]["overlap_stride"]
    loaded = Loaded(recorded, file, replace(base, image=replace(base.image, stride_px=stride)))
    assert loaded.towers.image.grid == tuple(about["derived"]["overlap_grid_hw"])
    names = [name for name in tensors if name.startswith("expected.overlap.")]
    assert names
    for name in names:
        found = {"image_tokens": loaded.image, "image_feat": lambda: loaded.image(pooled=True)}.get(name.split(".")[-1])
        if found is None:
            assert close(loaded.towers.image.positions, tensors[name]), name
        else:
            assert close(found(), tensors[name]), name


def test_positions_and_features_equal_open_clip_by_its_rule(recorded: Any, file: Path) -> None:
    about, tensors = recorded
    loaded = Loaded(recorded, file, sizes(about, position_resize="open-clip"))
    assert close(loaded.towers.image.positions, tensors["expected.openclip.pos_embed_bicubic_antialias"])
    assert close(loaded.image(pooled=True), tensors["expected.openclip.image_feat_bicubic_antialias"])


def test_the_other_activation_is_refused_and_would_be_wrong(recorded: Any, file: Path) -> None:
    about, tensors = recorded
    plain = sizes(about, quick_gelu=False)
    with pytest.raises(
        ValueError, match=r"trained with QuickGELU, expected the exact GELU; set --method.towers.quick-gelu True"
    ):
        Loaded(recorded, file, plain)
    loaded = Loaded(recorded, file, sizes(about))
    for block in (*loaded.towers.image.blocks, *loaded.towers.text.blocks):
        block.quick_gelu = False
    assert close(loaded.image(pooled=True), tensors["expected.openclip.image_feat_plain_gelu"])
    assert close(loaded.text(pooled=True), tensors["expected.openclip.text_feat_plain_gelu"])


def test_half_precision_files_are_computed_in_float32(recorded: Any, file: Path, tmp_path: Path) -> None:
    about, tensors = recorded
    names = [name for name in tensors if name.startswith("weights.")]
    halved = ("weight", "bias", "in_proj_weight", "in_proj_bias", "proj", "text_projection")
    state = {}
    for name in names:
        key, tensor = name.removeprefix("weights."), tensors[name]
        half = key.split(".")[-1] in halved and ".ln_" not in f".{key}" and not key.startswith("token_embedding")
        state[key] = tensor.half() if half and tensor.is_floating_point() else tensor
    path = tmp_path / "half.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    loaded = Loaded(recorded, path, sizes(about))
    assert close(loaded.image(pooled=True), tensors["expected.fp16_stored.image_feat"])
    assert close(loaded.text(pooled=True), tensors["expected.fp16_stored.text_feat"])


def test_the_converted_file_gives_the_same_and_goes_back(recorded: Any, file: Path, tmp_path: Path) -> None:
    about, tensors = recorded
    out = tmp_path / "ours.safetensors"
    text = convert(file, out)
    assert "clip weights" in text and "3 stored twice or computed, left out:" in text
    loaded = Loaded(recorded, file, sizes(about))
    expected = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    load_weights(loaded, out)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    back = to_clip(expected)
    assert len(back) == len(tensors) - sum(not name.startswith("weights.") for name in tensors) - 4
    for name, tensor in back.items():
        if name != "visual.positional_embedding":
            assert torch.equal(tensor, tensors[f"weights.{name}"])

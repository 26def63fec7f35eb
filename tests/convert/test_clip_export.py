"""What is written of CLIP's towers says what no shape tells, and comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from small_clip import CONFIG, ORIGINS, SIZES, Holder, hugging_face_model, state, written

from tbps.config.clip_sizes import ImageTowerSizes, TextTowerSizes
from tbps.config.data import Captioning, Data
from tbps.config.methods.bamg import Bamg
from tbps.config.methods.bilma import Bilma
from tbps.config.methods.clip import Clip
from tbps.config.methods.irra import Irra
from tbps.config.methods.method import MethodConfig
from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.convert.clip import load_clip
from tbps.convert.export import export
from tbps.convert.foreign import convert
from tbps.convert.weights import load_weights, read_weights
from tbps.methods.method import Method
from tbps.methods.registry import build_method
from tbps.runs import checkpoint
from tbps.runs.run_folder import OpenRunFolder, RunFolder
from tbps.training.start import start

TWO_HEADS = replace(
    SIZES,
    image=ImageTowerSizes(width=64, layers=2, heads=2, intermediate=256, patch_px=8),
    text=TextTowerSizes(width=64, layers=3, heads=2, intermediate=256, vocabulary_size=40, max_positions=10),
)
"""Heads that are not 64 wide, as nobody would guess."""
IMAGE_PX = (32, 16)
METHODS: dict[str, MethodConfig] = {
    "clip": Clip(towers=TWO_HEADS),
    "irra": Irra(towers=TWO_HEADS, cross_layers=1, cross_heads=2),
}
OTHERS: dict[str, MethodConfig] = {
    "bilma": Bilma(towers=TWO_HEADS, encoder_layers=1, encoder_heads=2),
    "bamg": Bamg(towers=TWO_HEADS, fusion_layers=1, fusion_heads=2),
}
"""Methods without official code, so without its files."""


def method_of(config: MethodConfig, image_px: tuple[int, int] = IMAGE_PX, *, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return build_method(config, image_px=image_px, num_identities=3)


def run_of(folder: Path, kind: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a run with a checkpoint, and its weights."""
    captioning = Captioning(vocabulary="clip", max_words=0, max_tokens=10, cleaning="none")
    data = Data(benchmark="cuhk-pedes", captioning=captioning, image_px=IMAGE_PX, batch_pairs=4, group_pairs=2)
    run = Run(
        recipe=kind,
        name="trial",
        runs=str(folder),
        method=(METHODS | OTHERS)[kind],
        data=data,
        optim=Optimiser(lr=1e-5),
        schedule=Schedule(epochs=1),
    )
    weights = method_of(run.method, seed=1).state_dict()
    opened = OpenRunFolder(run)
    checkpoint.save(opened.checkpoints, step=1, model=weights, optimiser={"x": torch.zeros(2)}, progress={"step": 1})
    opened.close()
    return opened.path, weights


def assert_towers_are(method: Method, weights: dict[str, torch.Tensor]) -> None:
    own = {name: tensor for name, tensor in method.state_dict().items() if name.startswith(("towers.", "logit_scale"))}
    assert len(own) > 60 and all(torch.equal(tensor, weights[name]) for name, tensor in own.items())


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("kind", METHODS)
def test_an_export_of_a_run_is_its_towers_again(tmp_path: Path, kind: str, official: bool) -> None:
    folder, weights = run_of(tmp_path, kind)
    out = tmp_path / "exported"
    said = export(folder, out, official=official)
    assert ("quick_gelu True, vision_cfg.head_width 32 and text_cfg.heads 2" in said) == (official and kind == "clip")
    assert ("the official code will compute other features" in said) == (official and kind == "irra")
    method = method_of(METHODS[kind])
    report = load_clip(method, str(out))
    assert_towers_are(method, weights)
    assert report.missing == report.resized == []
    assert bool(report.unplaced) == (kind == "irra")
    wider = method_of(METHODS[kind], (32, 32))  # the grid of its images is known: 8 patches are no square
    assert load_clip(wider, str(out)).resized == ["towers.image.positions"]


def changed(kind: str, **towers: Any) -> MethodConfig:
    return replace((METHODS | OTHERS)[kind], towers=replace(TWO_HEADS, **towers))  # type: ignore[call-arg]


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "activation": (
        {"quick_gelu": False},
        "its towers were trained with QuickGELU, expected the exact GELU; set --method.towers.quick-gelu True",
    ),
    "heads of images": (
        {"image": SIZES.image},
        "its image tower has 2 attention heads, expected 1; set --method.towers.image.heads 2",
    ),
    "heads of captions": (
        {"text": SIZES.text},
        "its text tower has 2 attention heads, expected 1; set --method.towers.text.heads 2",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize(
    ("kind", "official"),
    [*((kind, official) for kind in METHODS for official in (False, True)), *((kind, False) for kind in OTHERS)],
)
def test_a_run_computes_with_an_export_as_it_was_trained_or_refuses_it(
    tmp_path: Path, kind: str, what: str, official: bool
) -> None:
    folder, _ = run_of(tmp_path, kind)
    out = tmp_path / "exported"
    export(folder, out, official=official)
    towers, sentence = UNFIT[what]
    method = method_of(changed(kind, **towers))
    with pytest.raises(ValueError) as raised:
        load_clip(method, str(out))
    assert str(raised.value) == f"{out}: {sentence}"
    if not official:
        with pytest.raises(ValueError) as raised:
            load_weights(method, out)
        assert str(raised.value) == f"{out}: {sentence}"


@pytest.mark.parametrize("what", UNFIT)
def test_the_folder_of_a_run_says_it_too(tmp_path: Path, what: str) -> None:
    folder, weights = run_of(tmp_path, "clip")
    method = method_of(METHODS["clip"])
    start(method, RunFolder(tmp_path / "new"), Start(weights=str(folder)), reranks=False)
    assert_towers_are(method, weights)
    towers, sentence = UNFIT[what]
    with pytest.raises(ValueError, match=sentence.partition(";")[0]):
        start(method_of(changed("clip", **towers)), RunFolder(tmp_path / "new"), Start(weights=str(folder)), reranks=False)
    with pytest.raises(ValueError, match=r"the folder of a run, expected .*; start from a run with --start\.weights "):
        load_clip(method, str(folder))


def test_the_heads_of_irras_cross_encoder_are_asked_of_whoever_has_one(tmp_path: Path) -> None:
    folder, weights = run_of(tmp_path, "irra")
    out = tmp_path / "exported.safetensors"
    export(folder, out)
    other = method_of(replace(METHODS["irra"], cross_heads=4))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"guessed, it has 2 attention heads, expected 4; set --method\.cross-heads 2"):
        load_weights(other, out)
    load_clip(other, str(out))  # the towers alone
    assert_towers_are(other, weights)
    plain = method_of(METHODS["clip"])
    assert "cross_former.cross_attention.query.weight" in load_weights(plain, out).unplaced


def test_the_heads_of_bamgs_fusion_are_asked_of_whoever_has_one(tmp_path: Path) -> None:
    folder, _ = run_of(tmp_path, "bamg")
    out = tmp_path / "exported.safetensors"
    export(folder, out)
    other = method_of(replace(OTHERS["bamg"], fusion_heads=4))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"fusion .* has 2 attention heads, expected 4; set --method\.fusion-heads 2"):
        load_weights(other, out)


def test_metadata_says_what_no_shape_tells(tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    hugging_face_model().save_pretrained(tmp_path / "clip")
    convert(tmp_path / "clip", out)
    _, metadata = read_weights(out)
    assert {name: metadata[name] for name in ("kind", "quick_gelu", "image_heads", "text_heads", "image_grid")} == {
        "kind": "clip",
        "quick_gelu": "1",
        "image_heads": "1",
        "text_heads": "1",
        "image_grid": "4x4",
    }
    assert len(load_file(out)) == len(Holder().state_dict())


def test_an_export_for_open_clip_is_loaded_by_it(tmp_path: Path) -> None:
    ours, out = tmp_path / "ours.safetensors", tmp_path / "official.pt"
    convert(written(tmp_path, ORIGINS["TBPS-CLIP"][0](state())), ours, grid=(4, 2))
    text = export(ours, out, official=True)
    assert f"{out}: {len(state())} tensors under the keys of OpenAI and open_clip" in text
    model = open_clip.model.CLIP(embed_dim=16, vision_cfg=CONFIG["vision_cfg"], text_cfg=CONFIG["text_cfg"], quick_gelu=True)
    loaded = open_clip.load_checkpoint(model, str(out))
    assert loaded.missing_keys == loaded.unexpected_keys == []
    assert all(torch.equal(tensor, state()[name]) for name, tensor in model.state_dict().items())

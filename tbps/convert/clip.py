"""CLIP's towers from the files of others, by path, Hugging Face name or open_clip's `MODEL:TAG`, into a method.

Read: files of OpenAI (TorchScript archives) and open_clip, Hugging Face folders of a CLIPModel or of open_clip, checkpoints
of IRRA (towers under `base_model.`) and TBPS-CLIP (text tower under `encode_text.`), and what `tbps convert` writes, under
our names or official ones. What is not of the towers is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tbps.convert.clip_fit import Told, check_fit
from tbps.convert.clip_names import (
    IMAGE,
    LOGIT_SCALE,
    NO_WEIGHTS,
    TEXT,
    TOWERS,
    from_clip,
    from_hugging_face,
)
from tbps.convert.completeness import check_complete
from tbps.convert.files import read_foreign
from tbps.convert.hugging_face import Pretrained, read_pretrained
from tbps.convert.official import Converted
from tbps.convert.open_clip_models import check_towers, fetch, find_model, is_open_clip_name
from tbps.convert.weights import LoadReport, place, read_grid
from tbps.convert.wrappers import unwrapped

_BASE = "base_model."
_HUGGING_FACE = "vision_model.embeddings.class_embedding"


@dataclass(kw_only=True)
class ClipWeights:
    """The towers under our names, and what is known of them."""

    converted: Converted
    told: Told = field(default_factory=Told)


def is_clip(keys: Mapping[str, Any]) -> bool:
    """Whether the keys are those of a CLIP, of whatever naming."""
    return any(key.removeprefix(_BASE).startswith(("visual.", _HUGGING_FACE)) for key in keys)


def from_any_clip(found: Pretrained) -> ClipWeights:
    """CLIP's towers under our names. ValueError: a ResNet, an unknown tower, not a CLIP."""
    state, source = found.weights.tensors, found.weights.source
    if any(key.startswith(TOWERS) for key in state):
        return _ours(found)
    outside: list[str] = []
    if any(key.startswith(_BASE) for key in state):
        outside = [key for key in state if not key.startswith(_BASE)]
        state = {key.removeprefix(_BASE): tensor for key, tensor in state.items() if key.startswith(_BASE)}
    _check_keys(state, source)
    if _HUGGING_FACE in state:
        tensors, unplaced = from_hugging_face(state)
        told = _told_by_hugging_face(found.config)
    else:
        model = found.config.get("model_cfg", {})
        check_towers(source, model)
        told = told_by_open_clip(model) if model else _told_by_keys(found.weights.tensors)
        tensors, unplaced = from_clip(state)
    computed = [key for key in state if key in NO_WEIGHTS]
    return ClipWeights(
        converted=Converted(tensors=tensors, unplaced=sorted(unplaced + outside), duplicates=computed),
        told=_as_the_file_says(found, told),
    )


def read_clip(name_or_path: str) -> tuple[ClipWeights, str]:
    """CLIP's towers from a path, a Hugging Face name or open_clip's `MODEL:TAG`; and where they were found."""
    if is_open_clip_name(name_or_path):
        model = find_model(name_or_path)
        weights = read_foreign(fetch(model))
        weights.source = name_or_path
        weights.tensors = unwrapped(weights.tensors, name_or_path)
        clip = from_any_clip(Pretrained(weights=weights, config={"model_cfg": dict(model.config)}))
    else:
        _check_no_run(name_or_path)
        clip = from_any_clip(read_pretrained(name_or_path))
    check_complete(clip.converted.tensors, "clip", name_or_path)
    return clip, name_or_path


def load_clip(method: nn.Module, name_or_path: str) -> LoadReport:
    """Place CLIP's towers, and its logit scale where the method learns one, its positions interpolated to our grid.

    ValueError: the method has no such towers, nothing readable under that name, other sizes, heads or activation.
    """
    if not hasattr(method, "towers"):
        raise ValueError(
            f"start.clip is {name_or_path}, and this method has no CLIP towers; clear it, and name its encoders in start.vit"
            " and start.bert"
        )
    clip, source = read_clip(name_or_path)
    converted = clip.converted
    check_fit(method, converted.tensors, clip.told, source)
    report = place(method, converted.tensors, source=source, old_grid=clip.told.grid)
    report.missing = [name for name in report.missing if name.startswith((IMAGE, TEXT, LOGIT_SCALE))]
    report.unplaced += converted.unplaced
    return report


def _ours(found: Pretrained) -> ClipWeights:
    """A file under our names: its towers and logit scale; what else it holds has no place."""
    state = found.weights.tensors
    tensors = {name: tensor for name, tensor in state.items() if name.startswith(TOWERS) or name == LOGIT_SCALE}
    unplaced = sorted(state.keys() - tensors.keys())
    return ClipWeights(converted=Converted(tensors=tensors, unplaced=unplaced), told=_as_the_file_says(found, Told()))


def _as_the_file_says(found: Pretrained, told: Told) -> Told:
    """What is known of towers, and what a file says of itself that we converted or exported, which counts more."""
    about = found.weights.about
    said = replace(Told.of_metadata(about), grid=read_grid(about.get("image_grid", "")))
    known = {name: getattr(said, name) for name in ("quick_gelu", "image_heads", "text_heads", "grid")}
    return replace(told, **{name: value for name, value in known.items() if value is not None})


def told_by_open_clip(config: Mapping[str, Any]) -> Told:
    """What open_clip's config of a model says."""
    image, text = config["vision_cfg"], config["text_cfg"]
    rows_px, columns_px = image["image_size"] if isinstance(image["image_size"], list) else (image["image_size"],) * 2
    patch = image.get("patch_size", 16)
    return Told(
        quick_gelu=bool(config.get("quick_gelu", False)),
        image_heads=image["width"] // image.get("head_width", 64),
        text_heads=text["heads"],
        grid=(rows_px // patch, columns_px // patch),
    )


def _told_by_hugging_face(config: Mapping[str, Any]) -> Told:
    image, text = config.get("vision_config") or {}, config.get("text_config") or {}
    names = {image.get("hidden_act", "quick_gelu"), text.get("hidden_act", "quick_gelu")}  # as CLIPConfig's own default
    known = {"quick_gelu": True, "gelu": False}
    if config and (len(names) > 1 or not names <= known.keys()):
        raise ValueError(
            f"config.json says hidden_act {' and '.join(sorted(names))}, expected quick_gelu or gelu, one of both towers;"
            " choose another model"
        )
    return Told(
        quick_gelu=known[names.pop()] if config else None,
        image_heads=image.get("num_attention_heads", 12) if config else None,
        text_heads=text.get("num_attention_heads", 8) if config else None,
    )


def _told_by_keys(keys: Mapping[str, Tensor]) -> Told:
    """OpenAI's archives, IRRA and TBPS-CLIP are OpenAI's weights or made of them: QuickGELU."""
    openai = "input_resolution" in keys or any(key.startswith((_BASE, "encode_text.")) for key in keys)
    return Told(quick_gelu=True if openai else None)


def _check_no_run(name_or_path: str) -> None:
    path = Path(name_or_path).expanduser()
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        raise ValueError(
            f"start.clip is {name_or_path}, the folder of a run, expected a file of weights or a name; start from a run with"
            f" --start.weights {name_or_path}"
        )


def _check_keys(state: Mapping[str, Tensor], source: str) -> None:
    if any(key.startswith("visual.layer1.") for key in state):
        raise ValueError(
            f"{source}: its image tower is a ResNet, expected CLIP's vision transformer; take weights such as ViT-B-16's"
        )
    if any(key.startswith("visual.trunk.") for key in state):
        raise ValueError(
            f"{source}: its image tower is a model of timm, expected CLIP's vision transformer; take weights such as"
            " ViT-B-16's"
        )
    if not is_clip(state):
        raise ValueError(
            f"{source}: no CLIP weights (found {', '.join(list(state)[:3])}, ...), expected a file of OpenAI, open_clip,"
            " IRRA or TBPS-CLIP, or a Hugging Face CLIPModel"
        )

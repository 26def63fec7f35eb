"""open_clip's models by name and tag: what they are made of, and the file with their weights.

A model is named as open_clip names it, `MODEL:TAG`, for example `ViT-B-16-quickgelu:openai`. Its registry is read; none of
its model code runs, and the file is read as every other one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_QUICK = "-quickgelu"
_IMAGE_KEYS = frozenset(("image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"))
_TEXT_KEYS = frozenset(("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"))
_PLAIN = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale"}


@dataclass(frozen=True, kw_only=True)
class OpenClipModel:
    """A pair of model and tag that these towers can be."""

    name: str
    tag: str
    config: Mapping[str, Any]
    """open_clip's own: embed_dim, quick_gelu, vision_cfg, text_cfg."""
    pretrained: Mapping[str, Any]
    """Where its weights are."""


def is_open_clip_name(name: str) -> bool:
    """Whether a text is of the form `MODEL:TAG`, and no file or folder."""
    model, colon, tag = name.partition(":")
    return bool(colon and model and tag) and "/" not in model and "\\" not in model and not Path(name).exists()


def find_model(name: str) -> OpenClipModel:
    """Look `MODEL:TAG` up. ValueError: no such model or tag (the nearest are named), other towers, the wrong activation."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    model, _, tag = name.partition(":")
    names = open_clip.list_models()
    if model not in names:
        raise ValueError(
            f"{name}: open_clip {open_clip.__version__} has no model {model}, expected one of its {len(names)} names;"
            f" nearest: {', '.join(_nearest(model, names))}"
        )
    config = open_clip.get_model_config(model) or {}
    check_towers(model, config)
    tags = list_pretrained_tags_by_model(model)
    pretrained = get_pretrained_cfg(model, tag)
    _check_activation(model, tag, config, pretrained)
    if not pretrained:
        raise ValueError(
            f"{name}: open_clip {open_clip.__version__} has no weights {tag} of {model}, expected one of"
            f" {', '.join(tags) or 'none: it publishes no weights of this model'}; choose another tag or model"
        )
    return OpenClipModel(name=model, tag=tag, config=config, pretrained=pretrained)


def check_towers(model: str, config: Mapping[str, Any]) -> None:
    """ValueError where a config of open_clip asks for towers that ours are not: a ResNet, SigLIP, a BERT for text."""
    image, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    others = [key for key in config if key not in _PLAIN and config[key]]
    others += [f"vision_cfg.{key}" for key in image if key not in _IMAGE_KEYS and image[key]]
    others += [f"text_cfg.{key}" for key in text if key not in _TEXT_KEYS and text[key]]
    if isinstance(image.get("layers"), list):
        raise ValueError(
            f"{model}: its image tower is a ResNet, expected CLIP's vision transformer; choose a model whose name begins"
            " with ViT, such as ViT-B-16-quickgelu"
        )
    if others:
        raise ValueError(
            f"{model}: its towers differ from CLIP's vision and text transformer ({', '.join(others[:3])}), expected plain"
            " ones; choose another model, such as ViT-B-16-quickgelu"
        )


def fetch(found: OpenClipModel) -> Path:
    """The file of weights, from open_clip's cache or fetched into it. ValueError where neither can be."""
    from open_clip.pretrained import download_pretrained

    where = found.pretrained.get("hf_hub") or found.pretrained.get("url")
    try:
        return Path(download_pretrained(dict(found.pretrained)))
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # what its two ways of fetching raise: no network, no space, a digest
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"{found.name}:{found.tag}: its weights are not in the cache and cannot be fetched from {where} ({reason});"
            " fetch the file where there is a network, and name its path"
        ) from error


def _check_activation(model: str, tag: str, config: Mapping[str, Any], pretrained: Mapping[str, Any]) -> None:
    """open_clip itself only warns, and computes with the wrong activation."""
    if pretrained and pretrained.get("quick_gelu", False) == bool(config.get("quick_gelu", False)):
        return
    twin = model.removesuffix(_QUICK) if model.endswith(_QUICK) else model + _QUICK
    if pretrained or _has(twin, tag):
        trained, named = ("QuickGELU", "the exact GELU") if twin.endswith(_QUICK) else ("the exact GELU", "QuickGELU")
        raise ValueError(
            f"{model}:{tag}: these weights were trained with {trained}, and the name {model} means {named}; say {twin}:{tag}"
        )


def _has(model: str, tag: str) -> bool:
    from open_clip.pretrained import get_pretrained_cfg

    return bool(get_pretrained_cfg(model, tag))


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    by_lower = {one.lower(): one for one in names}
    return [by_lower[one] for one in difflib.get_close_matches(name.lower(), by_lower, n=4, cutoff=0.0)]

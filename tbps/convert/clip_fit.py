"""Whether CLIP's towers from a file are those of a method: their sizes, and what no tensor's shape tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tbps.convert.clip_names import IMAGE, TEXT

_HEADS = {
    "image_heads": ("its image tower", "towers.image.blocks.0.attention", "towers.image.heads"),
    "text_heads": ("its text tower", "towers.text.blocks.0.attention", "towers.text.heads"),
    "cross_heads": ("where words are guessed, it", "cross_former.cross_attention", "cross_heads"),
    "fusion_heads": ("its fusion of image and caption", "fusion.image_blocks.0.attention", "fusion_heads"),
}
"""Of each number of heads: whose it is in a sentence, the layer of a method that has it, and its setting."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a file's surroundings say of its towers, and no tensor's shape does; None where they do not."""

    quick_gelu: bool | None = None
    image_heads: int | None = None
    text_heads: int | None = None
    cross_heads: int | None = None
    """Of IRRA's captions that look at an image."""
    fusion_heads: int | None = None
    """Of BAMG's layers in which image and caption meet."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the patches of its images."""

    def as_metadata(self) -> dict[str, str]:
        """As text, in the metadata of a converted file."""
        told = {name: getattr(self, name) for name in ("quick_gelu", *_HEADS)}
        return {name: str(int(value)) for name, value in told.items() if value is not None}

    @staticmethod
    def of_metadata(metadata: Mapping[str, str]) -> Told:
        """The inverse, without the grid."""
        quick = metadata.get("quick_gelu")
        heads: dict[str, Any] = {name: int(metadata[name]) for name in _HEADS if name in metadata}
        return Told(quick_gelu=None if quick is None else bool(int(quick)), **heads)


def check_fit(method: nn.Module, tensors: Mapping[str, Tensor], told: Told, source: str) -> None:
    """ValueError where the file's towers are of another size than the method's, or have other heads or activations."""
    _check_sizes(method, tensors, told, source)
    _check_heads(method, told, source)
    block: Any = method.get_submodule("towers.image.blocks.0")  # both towers have the same
    if told.quick_gelu not in (None, block.quick_gelu):
        trained, ours = ("QuickGELU", "the exact GELU") if told.quick_gelu else ("the exact GELU", "QuickGELU")
        raise ValueError(
            f"{source}: its towers were trained with {trained}, expected {ours}; set --method.towers.quick-gelu"
            f" {told.quick_gelu}"
        )


def _check_heads(method: nn.Module, told: Told, source: str) -> None:
    """ValueError where heads differ: shapes would fit, and every number would be nonsense."""
    modules: dict[str, Any] = dict(method.named_modules())
    for name, (whose, layer, setting) in _HEADS.items():
        heads, own = getattr(told, name), getattr(modules.get(layer), "heads", None)
        if heads is not None and own is not None and heads != own:
            raise ValueError(
                f"{source}: {whose} has {heads} attention heads, expected {own}; set"
                f" --method.{setting.replace('_', '-')} {heads}"
            )


def _check_sizes(method: nn.Module, tensors: Mapping[str, Tensor], told: Told, source: str) -> None:
    """ValueError where towers of another size are in the file: what it holds, as the settings that would fit it."""
    found, ours = sizes_of(tensors), sizes_of(method.state_dict())
    wrong = {name: size for name, size in found.items() if size != ours.get(name)}
    if not wrong:
        return
    for tower, heads in (("image", told.image_heads), ("text", told.text_heads)):
        if f"{tower}.width" in wrong:  # 64 numbers a head, where nobody tells: as in all of OpenAI's models
            wrong[f"{tower}.heads"] = heads or wrong[f"{tower}.width"] // 64
    settings = " ".join(f"--method.towers.{name.replace('_', '-')} {size}" for name, size in wrong.items())
    first = next(iter(wrong))
    raise ValueError(
        f"{source}: its towers are of another size (towers.{first} {found[first]}, expected {ours.get(first)}); set"
        f" {settings}, or take weights of this size"
    )


def have_towers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all is there that `sizes_of` reads."""
    both = {f"{tower}{part}.weight" for tower in (IMAGE, TEXT) for part in ("norm_post", "blocks.0.fc1")}
    image, text = (f"{IMAGE}patch_embed", f"{IMAGE}projection"), (f"{TEXT}words", f"{TEXT}positions")
    return tensors.keys() >= both | {f"{name}.weight" for name in (*image, *text)}


def sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of towers by the names of the settings, from shapes; without heads, which no shape tells."""
    sizes: dict[str, int] = {}
    for tower, prefix in (("image", IMAGE), ("text", TEXT)):
        sizes[f"{tower}.width"] = tensors[f"{prefix}norm_post.weight"].shape[0]
        sizes[f"{tower}.layers"] = sum(name.startswith(prefix) and name.endswith(".fc1.weight") for name in tensors)
        sizes[f"{tower}.intermediate"] = tensors[f"{prefix}blocks.0.fc1.weight"].shape[0]
    sizes["image.patch_px"] = tensors[f"{IMAGE}patch_embed.weight"].shape[-1]
    sizes["text.vocabulary_size"] = tensors[f"{TEXT}words.weight"].shape[0]
    sizes["text.max_positions"] = tensors[f"{TEXT}positions.weight"].shape[0]
    sizes["features"] = tensors[f"{IMAGE}projection.weight"].shape[0]
    return sizes

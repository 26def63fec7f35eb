"""`tbps convert`: official checkpoints, BERT, ViT and CLIP weights into a file under our names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from tbps.convert.aptm_names import from_aptm, is_aptm
from tbps.convert.clip import from_any_clip, is_clip
from tbps.convert.completeness import check_complete
from tbps.convert.files import ForeignWeights
from tbps.convert.hugging_face import Pretrained, read_pretrained
from tbps.convert.irra_names import from_irra, irra_grid, is_irra
from tbps.convert.official import Converted, from_official
from tbps.convert.pretrained import from_bert, from_vit, patch_grid
from tbps.convert.swin import from_swin, is_swin
from tbps.convert.weights import POSITIONS, Grid, checked_grid, grid_text
from tbps.convert.writing import check_out, write_safetensors

Kind = Literal["auto", "albef", "rasa", "mars", "aptm", "bert", "vit", "swin", "clip", "irra"]
_READERS: dict[str, Callable[[Mapping[str, Tensor]], Converted]] = {
    "bert": from_bert,
    "vit": from_vit,
    "swin": from_swin,
    "aptm": from_aptm,
}


def convert(source: Path, out: Path, *, kind: Kind = "auto", grid: Grid | None = None, force: bool = False) -> str:
    """Write foreign weights under our names as safetensors; returns the report, with every key that has no place.

    source: an official ALBEF, RaSa, MARS, APTM or IRRA checkpoint, or BERT, ViT, Swin or CLIP weights (a file, or a folder
    with one), as saved from the model or from what wrapped it. grid: rows and columns of patches of its images, where they
    are not square and no config says it. The file's metadata names format, source, sha256, kind and the grid. ValueError:
    not such weights, not all of them, numbers that are not finite, another kind or grid than told, `out` exists.
    """
    check_out(out, force=force)
    if not source.exists():
        raise ValueError(f"{source}: found nothing, expected a file of weights or a folder with one; check the path")
    found = read_pretrained(str(source))
    found_kind = _kind(found.weights)
    if (kind, found_kind) == ("clip", "irra"):  # its towers alone are wanted
        found_kind = "clip"
    if kind not in ("auto", found_kind):
        raise ValueError(f"{source}: its keys are those of {found_kind} weights, expected {kind}; say {found_kind} or auto")
    metadata = {"source": source.name, "sha256": found.weights.sha256, "kind": found_kind}
    if found_kind in ("clip", "irra"):
        clip = from_any_clip(found)
        converted, known = clip.converted, clip.told.grid
        metadata |= clip.told.as_metadata()
        if found_kind == "irra":
            tensors, unplaced = from_irra(found.weights.tensors)
            converted, known = replace(converted, tensors=tensors, unplaced=unplaced), irra_grid(tensors)
    else:
        converted, known = _READERS.get(found_kind, from_official)(found.weights.tensors), patch_grid(found.config)
    check_complete(converted.tensors, found_kind, str(source))
    grid = _grid(found, converted, told=grid, known=known)
    write_safetensors(converted.tensors, out, metadata | ({"image_grid": grid_text(grid)} if grid else {}))
    return _report(found.weights, converted, found_kind, out)


def _kind(weights: ForeignWeights) -> str:
    """What the keys say."""
    keys = weights.tensors.keys()
    if is_clip(weights.tensors):
        return "irra" if is_irra(weights.tensors) else "clip"
    if is_aptm(keys):
        return "aptm"
    if is_swin(keys):
        return "swin"

    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in keys)

    if has("visual_encoder.") and has("text_encoder."):
        return "mars" if has("visual_decoder.", "decoder_pred.") else "rasa" if has("prd_head.") else "albef"
    if any(key.endswith("embeddings.word_embeddings.weight") for key in keys):
        return "bert"
    if any("patch_embed.proj." in key or "patch_embeddings.projection." in key for key in keys):
        return "vit"
    if has("online.", "towers."):
        raise ValueError(f"{weights.source}: is under our names already; use it as start.weights, or export it (--export)")
    raise ValueError(
        f"{weights.source}: its keys ({', '.join(list(keys)[:3])}, ...) are of no known kind, expected albef, rasa, mars,"
        " aptm, irra, bert, vit, swin or clip weights; convert the file of one of these"
    )


def _grid(found: Pretrained, converted: Converted, *, told: Grid | None, known: Grid | None) -> Grid | None:
    """Rows and columns of patches: as the config says or the user, else square, as all official files are."""
    positions = next((converted.tensors[name] for name in POSITIONS if name in converted.tensors), None)
    if positions is None:
        if told:
            raise ValueError(f"{found.weights.source}: holds no image encoder, to which --grid could apply; leave it out")
        return None
    if told and known and told != known:
        raise ValueError(
            f"{found.weights.source}: --grid says {grid_text(told)} patches, its config {grid_text(known)}; leave --grid out"
        )
    return checked_grid(positions.shape[-2] - 1, told or known, found.weights.source)


def _report(weights: ForeignWeights, converted: Converted, kind: str, out: Path) -> str:
    """Several lines; names what was left out, and why."""
    names = converted.tensors
    lines = [
        f"{weights.source}: {kind} weights, {len(weights.tensors)} tensors, sha256 {weights.sha256}",
        f"{out}: {len(names)} tensors under our names",
    ]
    if kind not in (*_READERS, "clip", "irra") and not any(name.startswith("momentum_encoder.") for name in names):
        lines.append("no momentum copies in the file: they will start equal to the online encoder")
    if converted.queue_dropped:
        lines.append(f"queue left out, its features have no identities (idx_queue): {', '.join(converted.queue_dropped)}")
    for what, keys in (
        ("stored twice or computed, left out", converted.duplicates),
        ("entries that are not weights, left out", weights.others),
        ("without a place, left out", converted.unplaced),
    ):
        if keys:
            lines += [f"{len(keys)} {what}:", *(f"  {key}" for key in keys)]
    return "\n".join(lines)

"""`tbps convert --export`: a run's weights as a small file under our names, or as a file for the official code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from tbps.config.run import Run
from tbps.convert.aptm_names import has_swin, to_aptm
from tbps.convert.clip_fit import Told
from tbps.convert.clip_names import IMAGE, TEXT, has_official_name, to_clip
from tbps.convert.completeness import check_finite
from tbps.convert.files import sha256_of
from tbps.convert.irra_names import to_irra
from tbps.convert.official import to_official, with_duplicates
from tbps.convert.weights import POSITIONS, Grid, checked_grid, grid_text, read_weights
from tbps.convert.writing import check_out, write_safetensors, write_torch
from tbps.runs.checkpoint import ALPHA, BASE, MODEL_FILE, read_progress, why_broken
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint

TRAINING_STATE = ("momentum_encoder.", "queue.")
"""How the names begin of what only training reads, whatever the method."""


def export(
    source: Path,
    out: Path,
    *,
    official: bool = False,
    grid: Grid | None = None,
    merged: Callable[[], dict[str, Tensor]] | None = None,
    force: bool = False,
) -> str:
    """Write the online encoder and heads, without momentum encoder, queue and optimiser; returns the report.

    What the method's config calls `TRAINING_ONLY` is left out, too, where the source is a run or a checkpoint in one.

    source: a run folder (its best checkpoint, else its newest), a checkpoint folder, or a file under our names.
    official: write a torch file with official keys under `model` instead, momentum copies included: the official code
    reads those before anything else. grid: rows and columns of patches, where neither the source nor a run says it.
    merged: gives the source's weights with adapters merged into them; without it, a run with adapters is written as adapters
    and heads, with the sha256 of their base.
    ValueError: not such a source, adapters under official keys, a number that is not finite, another grid than the
    source's, `out` exists.
    """
    check_out(out, force=force)
    file, metadata, training_only = _resolve(source)
    tensors, stored = _read(file, of_a_run="run" in metadata)
    metadata = stored | metadata | {"source": str(source.name), "sha256": sha256_of(file)}
    metadata.pop("format", None)
    adapters = any(".lora_" in name for name in tensors)
    if merged is not None:
        tensors, adapters = merged(), False
        metadata = {name: value for name, value in metadata.items() if name not in (BASE, ALPHA)}
    if adapters and official:
        raise ValueError(f"{source}: holds adapters, for which official code has no keys; add --merge")
    if grid:
        metadata["image_grid"] = grid_text(_told_grid(tensors, grid, metadata, file))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith((*TRAINING_STATE, *training_only))}
    lines = [f"{file}: {len(tensors)} tensors, sha256 {metadata['sha256']}"]
    if official and metadata.get("kind") == "irra":
        lines += _write_irra(kept, out, metadata)
    elif official and any(name.startswith("towers.") for name in kept):
        lines += _write_clip(kept, out, metadata)
    elif official and has_swin(kept):
        lines += _write_aptm(kept, out)
    elif official:
        lines += _write_official(kept, tensors, out)
    else:
        write_safetensors(kept, out, metadata)
        lines += [f"adapters and heads alone, for encoders with sha256 {metadata.get(BASE)}"] if adapters else []
        lines += [f"{out}: {len(kept)} tensors; left out {len(tensors) - len(kept)} {_described(training_only)}"]
    return "\n".join(lines)


def _told_grid(tensors: Mapping[str, Tensor], grid: Grid, metadata: Mapping[str, str], file: Path) -> Grid:
    known = metadata.get("image_grid", grid_text(grid))
    if known != grid_text(grid):
        raise ValueError(f"{file}: --grid says {grid_text(grid)} patches, the file or its run {known}; leave --grid out")
    if POSITIONS[0] not in tensors:
        raise ValueError(f"{file}: holds no image encoder, to which --grid could apply; leave it out")
    return checked_grid(tensors[POSITIONS[0]].shape[1] - 1, grid, str(file))


def _write_official(kept: dict[str, Tensor], tensors: dict[str, Tensor], out: Path) -> list[str]:
    momentum = {name: tensor for name, tensor in tensors.items() if name.startswith("momentum_encoder.")}
    copied = not momentum
    # What of it no loss reads is not in a run's checkpoint: official code, which loads it, gets that of the online encoder.
    online = {f"momentum_encoder.{name.removeprefix('online.')}": kept[name] for name in kept if name.startswith("online.")}
    filled, momentum = len(online.keys() - momentum.keys()), online | momentum
    # ALBEF's retrieval model, which has no word head, is the one whose keys lack the level `bert.`.
    bert_level = any(name.startswith("online.word_head.") for name in kept)
    state = with_duplicates(to_official(kept | momentum, bert_level=bert_level), bert_level=bert_level)
    ours_alone = [name for name in kept if not to_official({name: kept[name]})]
    if len(ours_alone) == len(kept):
        raise ValueError(
            f"none of the {len(kept)} tensors ({', '.join(ours_alone[:3])}, ...) has a key in official code that we know;"
            " leave out --official"
        )
    write_torch(state, out)
    lines = [f"{out}: {len(state)} tensors under official keys, without queue"]
    if copied:
        lines.append("no momentum encoder in the file: its copies are those of the online encoder")
    elif filled:
        lines.append(f"{filled} momentum tensors that no loss of the run reads are those of the online encoder")
    lines += [f"{name} has no official key and is left out" for name in ours_alone]
    return lines


def _write_clip(kept: dict[str, Tensor], out: Path, metadata: Mapping[str, str]) -> list[str]:
    """As open_clip's own training writes them: `open_clip.create_model(NAME, pretrained=FILE)` reads it."""
    state = {name: tensor.contiguous() for name, tensor in to_clip(kept).items()}
    write_torch(state, out, key="state_dict", about=metadata)
    ours_alone = [name for name in kept if not has_official_name(name)]
    lines = [f"{out}: {len(state)} tensors under the keys of OpenAI and open_clip"]
    if (told := Told.of_metadata(metadata)).image_heads:
        width = len(kept[f"{IMAGE}norm_post.weight"]) // told.image_heads
        lines.append(
            f"the open_clip model that reads it must have quick_gelu {told.quick_gelu}, vision_cfg.head_width {width} and"
            f" text_cfg.heads {told.text_heads}, which no tensor says"
        )
    return lines + [f"{name} has no official key and is left out" for name in ours_alone]


def _write_irra(kept: dict[str, Tensor], out: Path, metadata: Mapping[str, str]) -> list[str]:
    """As the official code of IRRA saves them, which loads a file whatever its precision."""
    state = {name: tensor.contiguous() for name, tensor in to_irra(kept).items()}
    write_torch(state, out, about=metadata)
    lines = [f"{out}: {len(state)} tensors under the official keys of IRRA"]
    told, widths = Told.of_metadata(metadata), [len(kept[f"{tower}norm_post.weight"]) for tower in (IMAGE, TEXT)]
    heads = (told.image_heads, told.text_heads)
    if told.quick_gelu is False or any(found and width != 64 * found for found, width in zip(heads, widths, strict=True)):
        lines.append("the official code will compute other features: it knows QuickGELU and heads of 64 numbers alone")
    return lines


def _write_aptm(kept: dict[str, Tensor], out: Path) -> list[str]:
    """As the official code of APTM saves them, but for what it makes anew from the sizes."""
    state = {name: tensor.contiguous() for name, tensor in to_aptm(kept, duplicates=True).items()}
    write_torch(state, out)
    return [
        f"{out}: {len(state)} tensors under the official keys of APTM; its code makes offsets and masks of windows itself"
    ]


def read_by_training_alone(run: Run) -> tuple[str, ...]:
    """How the names of tensors begin that no search with the run's weights reads."""
    return (*TRAINING_STATE, *run.method.TRAINING_ONLY, *run.method.training_heads())


def facts_of(run: Run, checkpoint: Path) -> dict[str, str]:
    """What a file of a run's weights says of them beside the tensors."""
    grid = run.method.grid(run.data.image_px)
    return {
        "kind": type(run.method).__name__.lower(),
        "run": f"{run.recipe}/{run.name}",
        "checkpoint": checkpoint.name,
        **run.method.told(),
        **({"image_grid": grid_text(grid)} if grid else {}),
    }


def _described(training_only: tuple[str, ...]) -> str:
    parts = ["momentum encoder", "queue", *(name.removesuffix(".") for name in training_only)]
    return f"of {', '.join(parts[:-1])} and {parts[-1]}"


def _resolve(source: Path) -> tuple[Path, dict[str, str], tuple[str, ...]]:
    """The file of weights, what its run says about it, and how names of tensors begin that ranking does not read."""
    if source.is_file():
        return source, {}, ()
    folder = RunFolder(source)
    if folder.config.is_file():
        run = folder.read_run()
        checkpoint = best_checkpoint(source)
        metadata = facts_of(run, checkpoint)
        if base := read_progress(checkpoint).get(BASE):
            metadata |= {BASE: str(base), ALPHA: f"{run.lora.alpha:g}"}
        return checkpoint / MODEL_FILE, metadata, run.method.TRAINING_ONLY
    if not (source / MODEL_FILE).is_file():
        raise ValueError(
            f"{source}: found no config.json and no {MODEL_FILE}, expected a run folder (runs/<recipe>/<name>), a checkpoint"
            " folder or a file under our names; check the path"
        )
    if reason := why_broken(source):
        raise ValueError(f"{source}: the checkpoint cannot be used: {reason}; export the run folder, or another checkpoint")
    around = RunFolder(source.absolute().parents[1])
    training_only = around.read_run().method.TRAINING_ONLY if around.config.is_file() else ()
    return source / MODEL_FILE, {"checkpoint": source.name}, training_only


def _read(file: Path, *, of_a_run: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file under our names: those of a run are, whatever its method calls them."""
    tensors, metadata = read_weights(file)
    if not of_a_run and not any(name.startswith(("online.", "towers.")) for name in tensors):
        raise ValueError(
            f"{file}: none of its {len(tensors)} tensors has a name of ours (online.* or towers.*); convert it first"
        )
    check_finite(tensors, str(file))
    return tensors, metadata

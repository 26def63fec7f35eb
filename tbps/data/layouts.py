"""Where each published data set keeps its annotations and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tbps.config.data import Benchmark


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where a published data set keeps its annotations and images, in the order in which places are tried."""

    annotation_files: tuple[str, ...]
    """File names, or one glob pattern whose matches are all read (MALS)."""
    split_files: tuple[str, ...] = ()
    """Where none of them is there: a file for each of `splits`, in their order; those that exist are read."""
    image_folders: tuple[str, ...]
    splits: tuple[str, ...]
    image_is_identity: bool = False
    """Nobody knows who else shows the same person: every image is an identity of its own."""


LAYOUTS: Mapping[Benchmark, Layout] = {
    "cuhk-pedes": Layout(
        annotation_files=("reid_raw.json", "caption_all.json"),
        image_folders=("imgs", "images", "."),
        splits=("train", "val", "test"),
    ),
    "icfg-pedes": Layout(
        annotation_files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
        image_folders=("imgs", "images", "."),
        splits=("train", "test"),
    ),
    "rstpreid": Layout(
        annotation_files=("data_captions.json",),
        image_folders=("imgs", "images", "."),
        splits=("train", "val", "test"),
    ),
    # The README's tree and the rows disagree about the folder `gene_crop`: both are tried. All may lie under `data`.
    "mals": Layout(
        annotation_files=("gene_attrs/g_*_attrs.json",),
        image_folders=tuple(
            f"{above}{folder}" for above in ("", "data/") for folder in (".", "gene_crop", "images", "images/gene_crop")
        ),
        splits=("train",),
        image_is_identity=True,
    ),
    "coco": Layout(
        annotation_files=("dataset_coco.json",),  # the splits of Karpathy and Fei-Fei, arXiv 1412.2306
        split_files=("coco_train.json", "coco_val.json", "coco_test.json"),  # the same splits, as ALBEF's code reads them
        image_folders=(".", "images"),
        splits=("train", "val", "test"),
        image_is_identity=True,
    ),
}


def annotation_files(root: Path, benchmark: Benchmark) -> list[Path]:
    """The annotation files below `root`; ValueError lists what was looked for and what is there."""
    names, split_files = LAYOUTS[benchmark].annotation_files, LAYOUTS[benchmark].split_files
    if benchmark == "mals":
        for folder in (root, root / "data"):
            if found := sorted(folder.glob(names[0])):
                return found
    for name in names:
        if (root / name).is_file():
            return [root / name]
    if found := [root / name for name in split_files if (root / name).is_file()]:
        return found
    wanted = " or ".join((*names, *split_files[:1]))
    if not root.is_dir():
        raise ValueError(f"data.root {root} is not a folder; give the folder that holds {wanted}")
    if any(root.glob("*.tar")):
        raise ValueError(
            f'{root} holds tar files without an index: run "tbps data index {root} --benchmark {benchmark}" once (its --help'
            f" tells how image, caption and identity are named), or give the folder that holds {wanted}"
        )
    here = sorted(entry.name for entry in root.iterdir())
    listed = ", ".join(here[:10]) + (f" and {len(here) - 10} more" if len(here) > 10 else "") if here else "nothing"
    raise ValueError(
        f"data.root {root} is not {benchmark}: looked for {wanted}, found {listed};"
        " give the folder that holds the annotation file"
    )

"""Where each data set keeps its annotations and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tbps.config.data import Benchmark


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where a data set keeps its annotations and images, in the order in which places are tried."""

    annotation_files: tuple[str, ...]
    """File names, or glob patterns of which all matches are read."""
    annotation_folders: tuple[str, ...] = (".",)
    """Where they may lie."""
    split_files: tuple[str, ...] = ()
    """Where none of them is there: a file for each of `splits`, in their order; those that exist are read."""
    image_folders: tuple[str, ...]
    splits: tuple[str, ...]
    needed_splits: tuple[str, ...] = ("train", "test")
    """Those of `splits` without which the data set is not usable."""
    identities: Literal["annotated", "images", "either"] = "annotated"
    """Whether rows say who is shown; `images`: nobody knows, every image is an identity of its own."""


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
        annotation_folders=(".", "data"),
        image_folders=tuple(
            f"{above}{folder}" for above in ("", "data/") for folder in (".", "gene_crop", "images", "images/gene_crop")
        ),
        splits=("train",),
        identities="images",
    ),
    "coco": Layout(
        annotation_files=("dataset_coco.json",),  # the splits of Karpathy and Fei-Fei, arXiv 1412.2306
        split_files=("coco_train.json", "coco_val.json", "coco_test.json"),  # the same splits, as ALBEF's code reads them
        image_folders=(".", "images"),
        splits=("train", "val", "test"),
        identities="images",
    ),
    "luperson-mllm": Layout(
        annotation_files=("T[sd]-*.json",),
        annotation_folders=("caption", "captions", "."),
        image_folders=("LUPerson-MLLM", "imgs", "images", "."),
        splits=("train",),
        identities="images",
    ),
    "webperson": Layout(
        annotation_files=("*w.json",),
        image_folders=("images", "imgs", "."),
        splits=("train",),
        identities="images",
    ),
    "synth-pedes": Layout(
        annotation_files=("synthpedes-dataset.json", "synthpedes_dataset.json"),
        image_folders=(".", "imgs", "images"),
        splits=("train",),
    ),
    "ham-pedes": Layout(
        annotation_files=("*HAMcaptions.json",),
        image_folders=(".", "imgs", "images"),  # those of SYNTH-PEDES, or a link to its folder
        splits=("train",),
        identities="either",
    ),
    # As APTM's code reads it; what HydraPlus-Net publishes lies in release_data.
    "pa-100k": Layout(
        annotation_files=(),
        split_files=("PA100K_train.json", "PA100K_val.json", "PA100K_test.json"),
        annotation_folders=("data/finetune", "."),
        image_folders=("images/pa100k/release_data", "release_data", "images/pa100k", "images", "."),
        splits=("train", "val", "test"),
        needed_splits=("train",),
        identities="images",
    ),
    # A user's own: tbps/data/own_pairs.md.
    "pairs": Layout(
        annotation_files=("pairs.csv", "pairs.jsonl"),
        image_folders=(".", "imgs", "images"),
        splits=("train", "val", "test"),
        needed_splits=(),
        identities="either",
    ),
}


def annotation_files(root: Path, benchmark: Benchmark) -> list[Path]:
    """The annotation files below `root`; ValueError lists what was looked for and what is there."""
    layout = LAYOUTS[benchmark]
    folders = [root / folder for folder in layout.annotation_folders]
    found = [[*sorted(folder.glob(name))] for folder in folders for name in layout.annotation_files]
    found += [[folder / name for name in layout.split_files] for folder in folders]
    found = [there for files in found if (there := [file for file in files if file.is_file()])]
    if benchmark == "pairs" and len(found) > 1:
        raise ValueError(f"{root} holds {' and '.join(layout.annotation_files)}; keep one of them")
    if found:
        return found[0]
    wanted = " or ".join((*layout.annotation_files, *layout.split_files[:1]))
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

"""How each data set names its images and writes its rows; see the readers in `tbps/data/readers`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from tbps.config.data import Benchmark
from tbps.synthetic.mals import subset_of
from tbps.synthetic.row_files import Form, csv_form

MIN_SPLIT_IDENTITIES = 8
CUHK_FOLDERS: Mapping[str, tuple[str, int]] = {
    "cam_a": ("bmp", 1),
    "cam_b": ("jpg", 2),
    "CUHK01": ("png", 1),
    "CUHK03": ("jpg", 8),
    "Market": ("jpg", 5),
    "test_query": ("jpg", 3),
    "train_query": ("jpg", 9),
}
"""Image folder -> its extension, how often it is used. The folders are sources, not splits."""
PARTS = tuple(f"Part{number}" for number in range(1, 12))
"""Image folders of SYNTH-PEDES."""
LUPERSON_FILES = ("Ts-qwen.json", "Td-qwen.json", "Ts-shikra.json", "Td-shikra.json")
"""One caption of each image in each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """The numbers of one data set."""

    annotation: str
    """Annotation file, or the folder that holds several."""
    image_folder: str
    """Folder that image paths are relative to."""
    splits: tuple[str, ...]
    first_id: int
    images: tuple[int, int]
    """Fewest and most images of an identity."""
    captions: int
    """Captions of an image."""
    num_cameras: int
    missing_spaces: bool = False
    """Whether captions lack some spaces after full stops."""
    attributes: Literal["", "mals", "pa-100k"] = ""
    """Whose attributes rows tell, if any."""
    people: bool = True
    """Whether the truth about the people is written beside it."""
    folders: tuple[str, ...] = ()
    """Where its images lie, if not all in `image_folder`."""


FORMATS: Mapping[Benchmark, Format] = {
    "cuhk-pedes": Format(
        annotation="reid_raw.json",
        image_folder="imgs",
        splits=("train", "val", "test"),
        first_id=1,
        images=(2, 4),
        captions=2,
        num_cameras=10,
    ),
    "icfg-pedes": Format(
        annotation="ICFG-PEDES.json",
        image_folder="imgs",
        splits=("train", "test"),
        first_id=0,
        images=(5, 8),
        captions=1,
        num_cameras=15,
    ),
    "rstpreid": Format(
        annotation="data_captions.json",
        image_folder="imgs",
        splits=("train", "val", "test"),
        first_id=0,
        images=(5, 5),
        captions=2,
        num_cameras=15,
        missing_spaces=True,
    ),
    "mals": Format(
        annotation="gene_attrs",
        image_folder=".",
        splits=("train",),
        first_id=0,
        images=(1, 1),
        captions=1,
        num_cameras=24,
        attributes="mals",
        people=False,
        folders=("gene_crop",),
    ),
    "coco": Format(
        annotation="dataset_coco.json",
        image_folder=".",
        splits=("train", "val", "test"),
        first_id=0,
        images=(1, 1),
        captions=5,
        num_cameras=24,
        folders=("train2014", "val2014"),
    ),
    "luperson-mllm": Format(
        annotation="caption",
        image_folder="LUPerson-MLLM",
        splits=("train",),
        first_id=0,
        images=(1, 1),
        captions=4,
        num_cameras=24,
        people=False,
    ),
    "webperson": Format(
        annotation="100w.json",
        image_folder="images",
        splits=("train",),
        first_id=0,
        images=(1, 1),
        captions=2,
        num_cameras=24,
        people=False,
    ),
    "synth-pedes": Format(
        annotation="synthpedes-dataset.json",
        image_folder=".",
        splits=("train",),
        first_id=0,
        images=(1, 4),
        captions=3,
        num_cameras=24,
        folders=PARTS,
    ),
    "ham-pedes": Format(
        annotation="random100w_2HAMcaptions.json",
        image_folder=".",
        splits=("train",),
        first_id=0,
        images=(1, 4),
        captions=2,
        num_cameras=24,
        folders=PARTS,
    ),
    "pa-100k": Format(
        annotation="data/finetune",
        image_folder="images/pa100k/release_data",
        splits=("train", "val", "test"),
        first_id=0,
        images=(1, 1),
        captions=0,
        num_cameras=24,
        attributes="pa-100k",
        people=False,
        folders=("data", "images"),
    ),
    "pairs": Format(
        annotation="pairs.csv",
        image_folder=".",
        splits=("train", "val", "test"),
        first_id=0,
        images=(2, 4),
        captions=2,
        num_cameras=10,
        attributes="mals",
        folders=("images",),
    ),
}
_COCO = Form(before='{"images": [\n', after='\n], "dataset": "coco"}\n')
_BY_IMAGE = Form(
    before="{\n", after="\n}\n", encode=lambda row: f"{json.dumps(row['image'])}: {json.dumps(row['captions'])}"
)
_PAIRS = csv_form(("image", "caption", "identity", "split", "attributes"))


def split_sizes(benchmark: Benchmark, num_identities: int, split_share: tuple[float, float]) -> dict[str, int]:
    """Identities of each split; `split_share` = (val, test). ValueError: too few, or shares that leave no training set."""
    splits = FORMATS[benchmark].splits
    if splits == ("train",):
        least = 1
    else:
        least = MIN_SPLIT_IDENTITIES * len(splits)
    if num_identities < least:
        raise ValueError(
            f"num_identities is {num_identities}, expected at least {least} for {benchmark}; ask for more identities"
        )
    sizes = {
        name: max(MIN_SPLIT_IDENTITIES, round(num_identities * share))
        for name, share in zip(("val", "test"), split_share)
        if name in splits
    }
    train = num_identities - sum(sizes.values())
    if min(split_share) < 0.0 or train < min(least, MIN_SPLIT_IDENTITIES):
        raise ValueError(
            f"split_share {split_share} leaves {train} of {num_identities} identities to train on,"
            f" expected shares >= 0 that leave at least {MIN_SPLIT_IDENTITIES}; make them smaller"
        )
    return {"train": train, **sizes}


def image_path(
    benchmark: Benchmark, *, identity: int, image: int, camera: int, split: str, num_identities: int, random: Random
) -> str:
    """The path of an image as its annotation row names it; unique in the data set."""
    if benchmark == "cuhk-pedes":
        folder = random.choices(list(CUHK_FOLDERS), [weight for _, weight in CUHK_FOLDERS.values()])[0]
        return f"{folder}/p{identity + 1:05d}_s{image:02d}_c{camera}.{CUHK_FOLDERS[folder][0]}"
    if benchmark == "icfg-pedes":
        # As published, one identity in a few lies in the folder that is named like the other split.
        folder = split if identity % 5 else {"train": "test", "test": "train"}[split]
        hour = random.choice(("morning", "noon", "afternoon"))
        frame = random.randrange(10_000)
        return f"{folder}/{identity:04d}/{identity:04d}_{camera + 1:03d}_{image:02d}_0303{hour}_{frame:04d}_0.jpg"
    if benchmark == "rstpreid":
        return f"{identity:04d}_c{camera + 1}_{image:04d}.jpg"
    if benchmark == "coco":
        # As published, val and test are of val2014, and a quarter of what is trained on too ("restval").
        folder = "train2014" if split == "train" and identity % 4 else "val2014"
        return f"{folder}/COCO_{folder}_{identity:012d}.jpg"
    if benchmark == "luperson-mllm":
        return f"{identity:07d}.jpg"
    if benchmark == "pa-100k":
        return f"{identity:06d}.jpg"
    if benchmark == "webperson":
        return f"{identity % 100:02d}/{identity:07d}.jpg"
    if benchmark in ("synth-pedes", "ham-pedes"):
        return f"{PARTS[identity % len(PARTS)]}/{identity}/{image}.jpg"
    if benchmark == "pairs":
        return f"images/{split}/{identity:04d}_{image}.jpg"
    return f"gene_crop/{subset_of(identity, num_identities)}/{identity:07d}.jpg"


def annotation_row(
    benchmark: Benchmark, *, identity: int, split: str, path: str, captions: Sequence[str], labels: Sequence[int]
) -> dict[str, Any]:
    """One row of the annotation file, with the published fields in their order."""
    number = FORMATS[benchmark].first_id + identity
    if benchmark == "rstpreid":
        return {"id": number, "img_path": path, "captions": list(captions), "split": split}
    if benchmark == "mals":
        name = path.removeprefix("gene_crop/").removesuffix(".jpg").replace("/", "_")
        return {"image": path, "caption": captions[0], "image_id": name, "label": list(labels)}
    if benchmark == "coco":
        return _coco_row(number, split=split, path=path, captions=captions)
    if benchmark == "luperson-mllm":
        return {"image": f"LUPerson-MLLM/{path}", "captions": list(captions)}
    if benchmark == "webperson":
        return {path: {"caption1": captions[0], "caption2": captions[1]}}
    if benchmark == "synth-pedes":
        told = {"captions": list(captions[:2]), "prompt_caption": list(captions[2:])}
        return {"id": number, "file_path": path, "attributes": [",".join(["unknown"] * 6)], **told}
    if benchmark == "pa-100k":
        return {"split": split, "image": path, "label": list(labels)}
    if benchmark == "ham-pedes":
        return {"image": path, "captions": list(captions)}
    if benchmark == "pairs":
        known = " ".join(map(str, labels))
        return {"image": path, "captions": captions, "identity": f"p{number:04d}", "split": split, "attributes": known}
    return {
        "split": split,
        "captions": list(captions),
        "file_path": path,
        "processed_tokens": [processed_tokens(caption) for caption in captions],
        "id": number,
    }


def parts_of(benchmark: Benchmark, row: Mapping[str, Any]) -> Iterator[tuple[str, Form, Mapping[str, Any]]]:
    """What a row adds to which annotation file, and how that file is written."""
    name = FORMATS[benchmark].annotation
    if benchmark == "mals":
        yield f"{name}/g_{row['image'].split('/')[1]}_attrs.json", Form(), row
    elif benchmark == "luperson-mllm":
        for file, caption in zip(LUPERSON_FILES, row["captions"], strict=True):
            yield f"{name}/{file}", _BY_IMAGE, {**row, "captions": caption}
    elif benchmark == "pa-100k":
        yield f"{name}/PA100K_{row['split']}.json", Form(), {"image": row["image"], "label": row["label"]}
    elif benchmark == "ham-pedes":
        yield name, _BY_IMAGE, row
    elif benchmark == "pairs":
        yield from ((name, _PAIRS, {**row, "caption": caption}) for caption in row["captions"])
    else:
        yield name, _COCO if benchmark == "coco" else Form(), row


def _coco_row(number: int, *, split: str, path: str, captions: Sequence[str]) -> dict[str, Any]:
    folder, _, name = path.partition("/")
    first = number * len(captions)
    return {
        "filepath": folder,
        "sentids": [first + caption for caption in range(len(captions))],
        "filename": name,
        "imgid": number,
        "split": "restval" if split == "train" and folder == "val2014" else split,
        "sentences": [
            {"tokens": processed_tokens(caption), "raw": caption, "imgid": number, "sentid": first + place}
            for place, caption in enumerate(captions)
        ],
        "cocoid": number,
    }


def processed_tokens(caption: str) -> list[str]:
    """Lower-case words without punctuation, as the published files hold them."""
    kept = "".join(letter if letter.isalnum() or letter in "- " else " " for letter in caption.lower())
    return kept.split()

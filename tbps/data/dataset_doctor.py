"""Is this folder the data set it should be? (`tbps data doctor`)

Counts, missing and broken images, what splits share, the parsing maps where there are some.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tbps.config.data import WITHOUT_CAPTIONS, Benchmark, LabelSetName
from tbps.data.annotations import Annotations, Split, parse_annotations, places, shared_by_name
from tbps.data.finding import Finding
from tbps.data.image_check import Looked, look_at_images
from tbps.data.image_files import ImageFiles
from tbps.data.layouts import LAYOUTS
from tbps.data.official_split import OFFICIAL, Counts
from tbps.data.parsing_check import manifest_findings, map_findings
from tbps.data.sharing import SharedPictures

FEW_WORDS = 3
MANY_WORDS = 100
WITHOUT = {
    "train": "; there is nothing to train on",
    "val": "; choose the last checkpoint",
    "test": "; train with --evaluation.test False",
}
"""What follows where a split that is not needed is not there."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: how large it is and should be, and what is odd in it."""

    name: str
    counts: Counts
    official: Counts | None
    findings: Sequence[Finding] = field(default_factory=tuple)
    num_decoded: int = 0
    """Images that were decoded, if that was asked for."""

    @property
    def is_official(self) -> bool:
        """Whether every published number is met."""
        if self.official is None:
            return False
        pairs = [(getattr(self.official, name), getattr(self.counts, name)) for name in ("identities", "images", "captions")]
        return all(expected in (None, found) for expected, found in pairs)


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """What was found."""

    root: Path
    benchmark: Benchmark
    splits: Sequence[SplitReport]
    missing_splits: Sequence[str]
    missing_folders: Sequence[str]
    """Folders that the annotations name and that are nowhere below the root."""
    decoded: bool
    findings: Sequence[Finding] = field(default_factory=tuple)
    """What splits share or repeat, and what else concerns several."""

    @property
    def usable(self) -> bool:
        """Training and evaluation can read everything, and test is apart.

        Every image is there (and decodes, if that was asked for), every caption has a word, the splits it needs exist.
        """
        in_splits = [finding for split in self.splits for finding in split.findings]
        clean = not any(finding.fatal for finding in (*self.findings, *in_splits))
        return clean and not set(LAYOUTS[self.benchmark].needed_splits) & set(self.missing_splits)

    @property
    def official(self) -> bool:
        """Whether all splits have their published sizes."""
        return not self.missing_splits and all(split.is_official for split in self.splits)

    def text(self, *, all_names: bool = False) -> str:
        """The report for a terminal, with a few names for each finding or all."""
        lines = [f"{self.benchmark} at {self.root}"]
        for split in self.splits:
            lines.append(f"  {split.name}: {_sizes(split)}")
            lines += [f"    {finding.line(all_names=all_names)}" for finding in split.findings]
        lines += [f"  {finding.line(all_names=all_names)}" for finding in self.findings]
        needed = LAYOUTS[self.benchmark].needed_splits
        lines += [f"  ERROR: no row of split {name}" for name in self.missing_splits if name in needed]
        lines += [f"  note: no row of split {name}{WITHOUT[name]}" for name in self.missing_splits if name not in needed]
        if self.missing_folders:
            lines.append(f"  ERROR: folders not found: {', '.join(self.missing_folders)}")
        lines.append(f"  {self._what_was_decoded()}")
        if not self.usable:
            lines.append("  NOT USABLE: repair the lines marked ERROR")
        elif not OFFICIAL[self.benchmark]:
            lines.append("  usable")
        elif self.official:
            lines.append("  usable: complete, with the published sizes")
        else:
            lines.append("  usable, but not of the published sizes: results cannot be compared with published ones")
        return "\n".join(lines)

    def _what_was_decoded(self) -> str:
        if not self.decoded:
            return "images and parsing maps were not decoded (--decode does)"
        num_images = sum(split.counts.images or 0 for split in self.splits)
        num_decoded = sum(split.num_decoded for split in self.splits)
        return (
            "every image was decoded" if num_decoded == num_images else f"{num_decoded:,} of {num_images:,} images decoded"
        )


def examine(
    root: Path, benchmark: Benchmark, *, decode: bool = False, workers: int = 2, parsing: Collection[LabelSetName] = ()
) -> DoctorReport:
    """Examine the data set at `root`. ValueError if its annotations cannot be read at all.

    parsing: label sets whose maps a training is to read; faults of others are told and leave the data set usable.
    """
    annotations = parse_annotations(root, benchmark)
    looked = {
        name: list(look_at_images(root, benchmark, list(split.image_path), decode=decode, workers=workers))
        for name, split in annotations.splits.items()
    }
    maps = {
        name: list(map_findings(root, benchmark, list(split.image_path), decode=decode, workers=workers, needed=parsing))
        for name, split in annotations.splits.items()
    }
    reports = [_split_report(annotations, split, looked[name], maps[name]) for name, split in annotations.splits.items()]
    missing_splits = [name for name in LAYOUTS[benchmark].splits if name not in annotations.splits]
    # Published files share what they share, and so do all results on them.
    published = not missing_splits and all(report.is_official for report in reports)
    missing = [image.path for images in looked.values() for image in images if image.fault == "missing"]
    return DoctorReport(
        root=root,
        benchmark=benchmark,
        splits=reports,
        missing_splits=missing_splits,
        missing_folders=_missing_folders(ImageFiles(root, benchmark), missing),
        decoded=decode,
        findings=[
            *annotations.findings,
            *_shared(annotations, looked, published=published),
            *manifest_findings(root, parsing),
        ],
    )


def _split_report(
    annotations: Annotations, split: Split, looked: Sequence[Looked], of_maps: Sequence[Finding]
) -> SplitReport:
    captions = annotations.benchmark not in WITHOUT_CAPTIONS
    findings = [*_image_findings(looked), *(_caption_findings(split) if captions else ()), *of_maps]
    if annotations.persons:
        findings.append(_alone(split))
    return SplitReport(
        name=split.name,
        counts=Counts(
            identities=split.num_identities,
            images=len(split.image_path),
            captions=len(split.caption) if captions else None,
        ),
        official=OFFICIAL[annotations.benchmark].get(split.name),
        findings=[finding for finding in findings if finding.names],
        num_decoded=sum(bool(image.sha256) and not image.fault for image in looked),
    )


def _missing_folders(files: ImageFiles, missing: Iterable[str]) -> list[str]:
    folders = {path.rpartition("/")[0] for path in missing}
    return sorted(folder for folder in folders if not files.has_folder(folder))


def _image_findings(looked: Iterable[Looked]) -> Iterator[Finding]:
    """Images that training would refuse, and those of which decoding leaves something out."""
    refused: dict[str, list[str]] = {"missing": [], "unreadable": [], "undecodable": []}
    changed: dict[str, list[str]] = defaultdict(list)
    for image in looked:
        if image.fault:
            refused[image.fault].append(image.path if image.fault == "missing" else f"{image.path} ({image.reason})")
        for change in image.changes:
            changed[change].append(image.path)
    yield Finding(what="images missing", names=tuple(refused["missing"]), fatal=True)
    yield Finding(what="images that cannot be read", names=tuple(refused["unreadable"]), fatal=True)
    yield Finding(what="images that cannot be decoded", names=tuple(refused["undecodable"]), fatal=True)
    for change, names in changed.items():
        yield Finding(what=f"images {change}", names=tuple(names), fatal=False)


def _shared(annotations: Annotations, looked: dict[str, list[Looked]], *, published: bool) -> Iterator[Finding]:
    """What must not be shared between splits or repeated within one: by id, by file and, if decoded, by bytes."""
    yield from shared_by_name(annotations)
    # Nobody promised that the photographs of COCO or the made pictures of MALS are all different.
    persons = annotations.persons
    copies = SharedPictures("copies of an image", same_path=False, persons=persons, tolerated=published or not persons)
    for place, image in zip(places(annotations), (image for images in looked.values() for image in images), strict=True):
        if image.file_key and copies.add(image.file_key, place) and image.sha256:
            copies.add(image.sha256, place)
    yield from copies.findings()


def _caption_findings(split: Split) -> Iterable[Finding]:
    """Odd captions; only one without any word is fatal."""
    odd: dict[str, list[str]] = {"empty": [], "short": [], "long": [], "foreign": []}
    identity_of: dict[str, int] = {}
    captions_of: dict[int, set[str]] = {}
    repeated: list[str] = []
    several_I = np.bincount(split.image_N) > 1
    shared = []
    for pair, caption in enumerate(split.caption):
        num_words = len(caption.split())
        if not any(character.isalnum() for character in caption):
            odd["empty"].append(split.pair_key(pair))
        elif num_words < FEW_WORDS:
            odd["short"].append(split.pair_key(pair))
        elif num_words > MANY_WORDS:
            odd["long"].append(split.pair_key(pair))
        if not caption.isascii():
            odd["foreign"].append(split.pair_key(pair))
        image = int(split.image_N[pair])
        if several_I[image]:
            said = captions_of.setdefault(image, set())
            if caption in said:
                repeated.append(split.pair_key(pair))
            said.add(caption)
        identity = int(split.image_identity_I[image])
        if identity_of.setdefault(caption.strip().lower(), identity) != identity:
            shared.append(split.pair_key(pair))
    yield Finding(what="captions without a word", names=tuple(odd["empty"]), fatal=True)
    yield Finding(what=f"captions of fewer than {FEW_WORDS} words", names=tuple(odd["short"]), fatal=False)
    yield Finding(what=f"captions of more than {MANY_WORDS} words", names=tuple(odd["long"]), fatal=False)
    yield Finding(what="captions with letters beyond ASCII", names=tuple(odd["foreign"]), fatal=False)
    yield Finding(what="captions that their image has already, word for word", names=tuple(repeated), fatal=False)
    yield Finding(what="captions that an earlier identity has word for word", names=tuple(shared), fatal=False)


def _alone(split: Split) -> Finding:
    alone_I = np.bincount(split.image_identity_I)[split.image_identity_I] == 1
    names = tuple(split.image_path[int(image)] for image in np.flatnonzero(alone_I))
    return Finding(what="identities with one image", names=names, fatal=False)


def _sizes(split: SplitReport) -> str:
    parts = []
    for name in ("identities", "images", "captions"):
        found = getattr(split.counts, name)
        expected = getattr(split.official, name) if split.official else None
        if found is None:
            continue
        parts.append(f"{found:,} {name}" + (f" (published: {expected:,})" if expected not in (None, found) else ""))
    return ", ".join(parts)

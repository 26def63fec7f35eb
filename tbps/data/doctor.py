"""Is this folder the data set it should be? Counts, missing and broken images, odd captions (`tbps data doctor`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tbps.config.run import Benchmark
from tbps.data.annotations import LAYOUTS, Split, find_image, read_annotations
from tbps.data.images import decode as decode_image

FEW_WORDS = 3
MANY_WORDS = 100
NUM_EXAMPLES = 5
"""Names shown of a longer list."""
DECODE_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Size of a split; None = not published."""

    identities: int | None
    images: int | None
    captions: int | None


OFFICIAL: Mapping[Benchmark, Mapping[str, Counts]] = {
    # Tables of the data sets' papers; RSTPReid is 5 images an identity and 2 captions an image, ICFG-PEDES 1 caption.
    "cuhk-pedes": {
        "train": Counts(identities=11_003, images=34_054, captions=68_126),
        "val": Counts(identities=1_000, images=3_078, captions=6_158),
        "test": Counts(identities=1_000, images=3_074, captions=6_156),
    },
    "icfg-pedes": {
        "train": Counts(identities=3_102, images=34_674, captions=34_674),
        "test": Counts(identities=1_000, images=19_848, captions=19_848),
    },
    "rstpreid": {
        "train": Counts(identities=3_701, images=18_505, captions=37_010),
        "val": Counts(identities=200, images=1_000, captions=2_000),
        "test": Counts(identities=200, images=1_000, captions=2_000),
    },
    "mals": {"train": Counts(identities=None, images=1_510_330, captions=1_510_330)},
    # The splits of Karpathy and Fei-Fei (arXiv 1412.2306), restval among train: counts of dataset_coco.json.
    "coco": {
        "train": Counts(identities=None, images=113_287, captions=566_747),
        "val": Counts(identities=None, images=5_000, captions=25_010),
        "test": Counts(identities=None, images=5_000, captions=25_010),
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Things of one kind that are odd or wrong in a split."""

    what: str
    names: tuple[str, ...]
    """Pair keys or image paths."""
    fatal: bool
    """Training or evaluation would stop at it."""

    def line(self) -> str:
        """One line with a few examples."""
        shown = ", ".join(self.names[:NUM_EXAMPLES]) + (", ..." if len(self.names) > NUM_EXAMPLES else "")
        return f"{'ERROR' if self.fatal else 'note'}: {len(self.names)} {self.what}: {shown}"


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: how large it is and should be, and what is odd in it."""

    name: str
    counts: Counts
    official: Counts | None
    findings: Sequence[Finding] = field(default_factory=tuple)

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

    @property
    def usable(self) -> bool:
        """Every image is there (and decodes, if that was asked for), every caption has a word, train and test exist."""
        clean = not any(finding.fatal for split in self.splits for finding in split.findings)
        return clean and not {"train", "test"} & set(self.missing_splits)

    @property
    def official(self) -> bool:
        """Whether all splits have their published sizes."""
        return not self.missing_splits and all(split.is_official for split in self.splits)

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.benchmark} at {self.root}"]
        for split in self.splits:
            lines.append(f"  {split.name}: {_sizes(split)}")
            lines += [f"    {finding.line()}" for finding in split.findings]
        lines += [f"  ERROR: no row of split {name}" for name in self.missing_splits if name != "val"]
        lines += ["  note: no row of split val; choose the last checkpoint" for name in self.missing_splits if name == "val"]
        if self.missing_folders:
            lines.append(f"  ERROR: folders not found: {', '.join(self.missing_folders)}")
        checked = "every image was decoded" if self.decoded else "images were not decoded (--decode does)"
        lines.append(f"  {checked}")
        if not self.usable:
            lines.append("  NOT USABLE: repair the lines marked ERROR")
        elif self.official:
            lines.append("  usable: complete, with the published sizes")
        else:
            lines.append("  usable, but not of the published sizes: results cannot be compared with published ones")
        return "\n".join(lines)


def examine(root: Path, benchmark: Benchmark, *, decode: bool = False, workers: int = 2) -> DoctorReport:
    """Examine the data set at `root`. ValueError if its annotations cannot be read at all."""
    annotations = read_annotations(root, benchmark)
    files = _ImageFiles(root, benchmark)
    reports = []
    folders: set[str] = set()
    for split in annotations.splits.values():
        missing = [path for path in split.image_path if path not in files]
        folders |= {os.path.dirname(path) for path in missing}
        findings = [Finding(what="images missing", names=tuple(missing), fatal=True), *_caption_findings(split)]
        if not LAYOUTS[benchmark].image_is_identity:
            findings.append(_alone(split))
        if decode:
            gone = set(missing)
            there = [path for path in split.image_path if path not in gone]
            broken = _broken_images(root, benchmark, there, workers=workers)
            findings.append(Finding(what="images that cannot be decoded", names=tuple(broken), fatal=True))
        reports.append(
            SplitReport(
                name=split.name,
                counts=Counts(identities=split.num_identities, images=len(split.image_path), captions=len(split.caption)),
                official=OFFICIAL[benchmark].get(split.name),
                findings=[finding for finding in findings if finding.names],
            )
        )
    return DoctorReport(
        root=root,
        benchmark=benchmark,
        splits=reports,
        missing_splits=[name for name in LAYOUTS[benchmark].splits if name not in annotations.splits],
        missing_folders=sorted(folder for folder in folders if not files.has_folder(folder)),
        decoded=decode,
    )


class _ImageFiles:
    """Which image files exist: one listing of every folder instead of one look-up per image."""

    def __init__(self, root: Path, benchmark: Benchmark) -> None:
        self._root = root
        self._benchmark = benchmark
        self._roots = [root / folder for folder in LAYOUTS[benchmark].image_folders]
        self._listed: dict[str, set[str]] = {}

    def __contains__(self, image_path: str) -> bool:
        folder, name = os.path.split(image_path)
        if name in self._names(folder):
            return True
        # Rare: another extension.
        return find_image(self._root, self._benchmark, image_path) is not None

    def has_folder(self, folder: str) -> bool:
        return any((root / folder).is_dir() for root in self._roots)

    def _names(self, folder: str) -> set[str]:
        if folder not in self._listed:
            places = [root / folder for root in self._roots if (root / folder).is_dir()]
            self._listed[folder] = {entry.name for place in places for entry in os.scandir(place)}
        return self._listed[folder]


def _caption_findings(split: Split) -> Iterable[Finding]:
    """Odd captions; only one without any word is fatal."""
    odd: dict[str, list[str]] = {"empty": [], "short": [], "long": [], "foreign": []}
    identity_of: dict[str, int] = {}
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
        identity = int(split.image_identity_I[split.image_N[pair]])
        if identity_of.setdefault(caption.strip().lower(), identity) != identity:
            shared.append(split.pair_key(pair))
    yield Finding(what="captions without a word", names=tuple(odd["empty"]), fatal=True)
    yield Finding(what=f"captions of fewer than {FEW_WORDS} words", names=tuple(odd["short"]), fatal=False)
    yield Finding(what=f"captions of more than {MANY_WORDS} words", names=tuple(odd["long"]), fatal=False)
    yield Finding(what="captions with letters beyond ASCII", names=tuple(odd["foreign"]), fatal=False)
    yield Finding(what="captions that an earlier identity has word for word", names=tuple(shared), fatal=False)


def _alone(split: Split) -> Finding:
    alone_I = np.bincount(split.image_identity_I)[split.image_identity_I] == 1
    names = tuple(split.image_path[int(image)] for image in np.flatnonzero(alone_I))
    return Finding(what="identities with one image", names=names, fatal=False)


def _broken_images(root: Path, benchmark: Benchmark, paths: Sequence[str], *, workers: int) -> list[str]:
    jobs = [(root, benchmark, paths[first : first + DECODE_BATCH]) for first in range(0, len(paths), DECODE_BATCH)]
    if workers < 2:
        return [path for job in jobs for path in _decode_some(job)]
    with ProcessPoolExecutor(workers) as pool:
        return [path for broken in pool.map(_decode_some, jobs) for path in broken]


def _decode_some(job: tuple[Path, Benchmark, Sequence[str]]) -> list[str]:
    root, benchmark, paths = job
    broken = []
    for path in paths:
        file = find_image(root, benchmark, path)
        assert file is not None, "only images that are there are decoded"
        try:
            decode_image(file.read_bytes(), key=path)
        except (ValueError, OSError):
            broken.append(path)
    return broken


def _sizes(split: SplitReport) -> str:
    parts = []
    for name in ("identities", "images", "captions"):
        found = getattr(split.counts, name)
        expected = getattr(split.official, name) if split.official else None
        parts.append(f"{found:,} {name}" + (f" (published: {expected:,})" if expected not in (None, found) else ""))
    return ", ".join(parts)

"""The published sizes of the data sets, and the split of CUHK-PEDES for files that leave it out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tbps.config.data import Benchmark
from tbps.data.readers.row import Row

logger = logging.getLogger(__name__)


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
    # HydraPlus-Net, arXiv 1709.09930; it has no captions.
    "pa-100k": {
        "train": Counts(identities=None, images=80_000, captions=None),
        "val": Counts(identities=None, images=10_000, captions=None),
        "test": Counts(identities=None, images=10_000, captions=None),
    },
    # PLIP, arXiv 2305.08386. Of the other three round numbers alone are published.
    "synth-pedes": {"train": Counts(identities=312_321, images=4_791_711, captions=12_138_157)},
    "luperson-mllm": {},
    "webperson": {},
    "ham-pedes": {},
    "pairs": {},
}


def with_official_split(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of CUHK-PEDES, with the official split where no row names one, as in `caption_all.json`.

    Ids run from 1 to 13003: the first 11,003 are taken for train, the next 1,000 for val, the last 1,000 for test. We do
    not have the published file, so each file must prove this: 34,054, 3,078 and 3,074 images fall into the three, as
    published, or ValueError. A file that names some splits only is an error too.
    """
    without = [row for row in rows if row.split is None]
    if not without:
        return rows
    if len(without) < len(rows):
        raise ValueError(f"{without[0].where}: no field 'split', which other rows have; correct the row")
    file = without[0].where.rpartition(", row ")[0]
    official = OFFICIAL["cuhk-pedes"]
    split_of = _split_by_id(official)
    if {row.identity for row in rows} == set(split_of):
        split_rows = [dataclasses.replace(row, split=split_of[row.identity]) for row in rows]
        found = {name: len({row.image_path for row in split_rows if row.split == name}) for name in official}
        if found == {name: counts.images for name, counts in official.items()}:
            logger.info("%s names no split: the official one follows from its ids, and has the published sizes", file)
            return split_rows
    raise ValueError(
        f"{file} has no field 'split', and the official split cannot be told from its ids: {len(split_of):,} from 1 on, of"
        f" published numbers of images, were expected; take reid_raw.json, or add 'split' to each row"
    )


def _split_by_id(official: Mapping[str, Counts]) -> dict[str, str]:
    names = [name for name, counts in official.items() for _ in range(counts.identities or 0)]
    return {str(number): name for number, name in enumerate(names, start=1)}

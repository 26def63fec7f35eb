"""Settings of the training pairs: which data set, and how images and captions become a batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, get_args

from tbps.config.place import PLACE
from tbps.config.ranges import Count, CountOrNone, Range, Share, check_ranges
from tbps.config.sources import Source, read_sources

Benchmark = Literal[
    "cuhk-pedes",
    "icfg-pedes",
    "rstpreid",
    "mals",
    "coco",
    "luperson-mllm",
    "webperson",
    "synth-pedes",
    "ham-pedes",
    "pa-100k",
    "pairs",
]
"""The data sets that can be read, by the name of their format; `pairs`: a user's own (tbps/data/own_pairs.md)."""
EVALUATED: tuple[Benchmark, ...] = ("cuhk-pedes", "icfg-pedes", "rstpreid", "pairs")
"""Those on which runs are compared; the others are there to be pretrained on."""
WITHOUT_CAPTIONS: tuple[Benchmark, ...] = ("pa-100k",)
"""Those that tell attributes alone."""
Cleaning = Literal["space", "delete", "none"]
"""Rules by which captions are cleaned, by name; see tbps/text/cleaning.py."""
Interpolation = Literal["bilinear", "bicubic"]
Augmentation = Literal["resized-crop", "random-operations", "flip", "pad-crop", "erase"]
"""What can be made with a training image, in the order in which it is made."""
LabelSetName = Literal["atr", "lip", "pascal"]
"""Sets of labels of human-parsing maps, by name; see tbps/data/label_sets.py."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """How the bytes of an image become the numbers that an image encoder reads. Three values: of red, green and blue."""

    mean: Annotated[tuple[float, float, float], Range(0, 1)] = (0.48145466, 0.4578275, 0.40821073)
    """What is subtracted from values of 0 to 1: by default as openai/CLIP's preprocessing, which ALBEF, RaSa, MARS, AGA and
    IRRA all use."""
    std: Annotated[tuple[float, float, float], Range(above=0, high=1)] = (0.26862954, 0.26130258, 0.27577711)
    """By what the difference is divided: by default as openai/CLIP's preprocessing."""
    interpolation: Interpolation = "bicubic"
    """How an image is resized, always with antialiasing."""
    erase: Annotated[tuple[float, float, float], Range(-10, 10)] = (0.48145466, 0.4578275, 0.40821073)
    """What erased pixels become, after normalisation: IRRA's and AGA's code writes the mean there; 0 is the mean colour."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.pixels")


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """How captions become tokens."""

    vocabulary: str
    """BERT word pieces: a Hugging Face tokenizer name, or a local `vocab.txt` / `tokenizer.json`. CLIP's byte pairs, as
    open_clip brings them: `clip`."""
    max_words: CountOrNone
    """Words kept of a caption; 0 = all."""
    max_tokens: Annotated[int, Range(2, because="a start token and one piece")]
    """Tokens kept, start and end tokens included; an attribute chunk that does not fit whole is dropped, not cut."""
    max_training_tokens: CountOrNone = 0
    """The same in training; 0 = as `max_tokens`. The official ALBEF, RaSa and MARS cut a caption's words in training, and
    its tokens in evaluation only."""
    cleaning: Cleaning = "space"
    """What is done to punctuation: it becomes a space; it is deleted, which joins "shirt.His" into one word as in the
    official ALBEF, RaSa and MARS; or nothing, as in the official IRRA, whose tokeniser knows it."""
    chunker: Literal["auto", "spacy", "builtin"] = "auto"
    """Who finds adjective-noun chunks: spaCy's en_core_web_sm, the built-in matcher, or the first where installed."""
    chunker_name: str = ""
    """Name and version of that chunker, filled in at the start of a run that needs chunks; if given, no other will do."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.captioning")
        if self.max_training_tokens == 1:
            raise ValueError(
                "data.captioning.max_training_tokens is 1, expected at least 2: a start token and one piece; or 0"
            )

    @property
    def training_tokens(self) -> int:
        """Tokens kept in training, start and end tokens included."""
        return self.max_training_tokens or self.max_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Training pairs and how a batch is made of them."""

    benchmark: Benchmark
    """The data set, by the name of its format."""
    root: str = field(default="", metadata=PLACE)
    """Folder with annotation file and images, as published or as tbps/data/own_pairs.md tells; or a folder / http(s) / s3
    URL of shards with an index."""
    sources: tuple[str, ...] = ()
    """Several data sets to train on, each as `BENCHMARK:WEIGHT`, or `NAME=BENCHMARK:WEIGHT` where two are of one format:
    `mals:3 coco:1` takes three of every four pairs from MALS. One of them is `benchmark`, which validation reads, at `root`.
    An epoch is as many pairs as all have together; each data set is gone through in epochs of its own. Empty: `benchmark`
    alone."""
    roots: tuple[str, ...] = field(default=(), metadata=PLACE)
    """Where the other sources lie, each as `NAME=ROOT`: `coco=data/COCO`."""
    cache: str = field(default="~/.cache/tbps/shards", metadata=PLACE)
    """Where remote shards are kept; the annotations of large data sets, read once, lie in `annotations` beside it."""
    cache_mb: CountOrNone = field(default=0, metadata=PLACE)
    """Megabytes of remote shards that may lie in `cache`, for all processes of a machine together: the ones read longest ago
    make way. 0 = all."""
    captioning: Captioning
    """How captions become tokens."""
    image_px: Annotated[tuple[int, int], Range(1)]
    """Height and width an image is resized to."""
    pixels: Pixels = Pixels()
    """How images become numbers, in training and, where `test_pixels` says nothing else, everywhere."""
    test_pixels: Pixels | None = None
    """The same for evaluation and report, where a paper has it otherwise there."""
    augmentations: tuple[Augmentation, ...] = ("flip",)
    """What is made at random with training images, in this order: `resized-crop` and `random-operations` (ALBEF's two of ten
    operations), `flip`, `pad-crop`, `erase` (IRRA's). MARS and RaSa: flip; AGA and IRRA: flip, pad-crop, erase; ALBEF and
    LAIP: resized-crop, random-operations, flip; APTM: random-operations, flip, erase."""
    decode_margin: Annotated[float, Range(0, 8)] = 0.0
    """JPEG files of training images are decoded at the smallest eighth of their size that is still so many times as high and
    wide as `image_px`, which is faster and not exact: see tbps/data/scale.md. 0 = at their whole size."""
    keep_sides: bool = False
    """Never mirror the image of a pair whose caption, own or swapped, says left or right; official code mirrors them too."""
    weak_positive_probability: Share = 0.0
    """How often a caption is swapped for another of the same identity."""
    weak_positive_pool: Literal["identity", "other-image"] = "identity"
    """Any caption of the identity (RaSa's and MARS's code), or only captions of its other images (the papers' words)."""
    batch_pairs: Count
    """Pairs of one optimiser step over all processes."""
    group_pairs: Annotated[int, Range(2, because="hard negatives need a second pair")]
    """Pairs that contrast with each other (the papers' per-GPU batch); divides `batch_pairs`."""
    micro_batch_pairs: CountOrNone = field(default=0, metadata=PLACE)
    """Pairs of one forward pass on one process; the rest is accumulated. 0 = all of a process's share."""
    workers: CountOrNone = field(default=2, metadata=PLACE)
    """Loader processes per rank."""
    limit_pairs: CountOrNone = 0
    """Use only the first so many pairs (0 = all), of several sources of each: for trials."""
    num_identities: CountOrNone = 0
    """Identities of the training pairs, filled in at the start of a run whose method has a class for each of them; if given,
    no other number will do."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        self._check_augmentations()
        _ = self.mixture  # whether it can be read
        if self.batch_pairs % self.group_pairs:
            raise ValueError(
                f"data.batch_pairs is {self.batch_pairs}, expected a multiple of data.group_pairs ({self.group_pairs});"
                " change one of them"
            )
        if self.micro_batch_pairs % self.group_pairs:
            raise ValueError(
                f"data.micro_batch_pairs is {self.micro_batch_pairs}, expected a multiple of data.group_pairs"
                f" ({self.group_pairs}) or 0"
            )

    def _check_augmentations(self) -> None:
        named = " ".join(self.augmentations) or "empty"
        in_order = tuple(one for one in get_args(Augmentation) if one in self.augmentations)
        if self.augmentations != in_order:
            raise ValueError(
                f"data.augmentations is {named}, expected each once, in the order in which they are made:"
                f" {' '.join(in_order)}"
            )
        if self.decode_margin and "resized-crop" in in_order:
            raise ValueError(
                f"data.decode_margin is {self.decode_margin} and data.augmentations is {named}, which crops images at their"
                " whole size; use 0, or leave out resized-crop"
            )
        if {"resized-crop", "pad-crop"} <= set(in_order):
            raise ValueError(f"data.augmentations is {named}, expected one crop at most; leave out resized-crop or pad-crop")
        if self.keep_sides and "flip" not in in_order:
            raise ValueError(
                f"data.keep_sides is on and data.augmentations is {named}, which mirrors nothing; turn it off, or add flip"
            )

    @property
    def mixture(self) -> tuple[Source, ...]:
        """The data sets that `sources` names; none where training is on one. ValueError: it cannot be read."""
        benchmarks = get_args(Benchmark)
        return read_sources(self.sources, self.roots, benchmark=self.benchmark, root=self.root, benchmarks=benchmarks)

    def alone(self, benchmark: Benchmark, root: str) -> Data:
        """The same with one data set in place of all."""
        return replace(self, benchmark=benchmark, root=root, sources=(), roots=())

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Benchmarks that training pairs are of."""
        return tuple(source.benchmark for source in self.mixture) or (self.benchmark,)

    @property
    def changes_on_host(self) -> bool:
        """Whether an augmentation changes pixels before they go to the device, so that each view has its own."""
        return "resized-crop" in self.augmentations or "random-operations" in self.augmentations

    @property
    def evaluation_pixels(self) -> Pixels:
        """How images become numbers in evaluation and report."""
        return self.test_pixels or self.pixels

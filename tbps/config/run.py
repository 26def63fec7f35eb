"""A whole run as frozen values: data, method, optimiser, schedule, loop, evaluation. Imports nothing heavy.

Fields marked `place` say where or how verbosely a run happens, not what it computes: they are left out of the hash that
decides whether a run folder may be continued.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from tbps.config.consistency import check_consistency
from tbps.config.methods import Aga, Albef, Laip, Mars, Rasa
from tbps.config.names import check_folder, check_home, check_name
from tbps.config.ranges import (
    Count,
    CountOrNone,
    NotNegative,
    Positive,
    Range,
    Share,
    check_ranges,
)

Benchmark = Literal["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco"]


PLACE = {"place": True}
"""Metadata of a field that says where or how verbosely a run happens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """How captions become tokens."""

    vocabulary: str
    """A Hugging Face tokenizer name, or a local `vocab.txt` / `tokenizer.json`."""
    max_words: Count
    """Words kept of a caption."""
    max_tokens: Annotated[int, Range(2, because="[CLS] and one word piece")]
    """Word pieces kept, [CLS] included; an attribute chunk that does not fit whole is dropped, not cut."""
    max_training_tokens: CountOrNone = 0
    """The same in training; 0 = as `max_tokens`. The official ALBEF, RaSa and MARS cut a caption's words in training, and
    its word pieces in evaluation only."""
    punctuation: Literal["space", "delete"] = "space"
    """ALBEF, RaSa and MARS delete punctuation, which joins "shirt.His" into one word: "delete" repeats that."""
    chunker: Literal["auto", "spacy", "builtin"] = "auto"
    """Who finds adjective-noun chunks: spaCy's en_core_web_sm, the built-in matcher, or the first where installed."""
    chunker_name: str = ""
    """Name and version of that chunker, filled in at the start of a run that needs chunks; if given, no other will do."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.captioning")
        if self.max_training_tokens == 1:
            raise ValueError("data.captioning.max_training_tokens is 1, expected at least 2: [CLS] and one word piece; or 0")

    @property
    def training_tokens(self) -> int:
        """Word pieces kept in training, [CLS] included."""
        return self.max_training_tokens or self.max_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Training pairs and how a batch is made of them."""

    benchmark: Benchmark
    root: str = field(default="", metadata=PLACE)
    """Folder with the annotation file and images as published, or a folder / http(s) / s3 URL of shards with an index."""
    cache: str = field(default="~/.cache/tbps/shards", metadata=PLACE)
    """Where remote shards are kept; the annotations of large data sets, read once, lie in `annotations` beside it."""
    captioning: Captioning
    image_px: Annotated[tuple[int, int], Range(1)]
    """Height and width an image is resized to."""
    augmentation: Literal["none", "flip", "crop-erase", "randaugment"] = "flip"
    """RaSa and MARS: flip; AGA, IRRA: flip + padded crop + erasing; ALBEF: resized crop + flip + two random operations."""
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
    """Use only the first so many pairs (0 = all): for trials."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        if self.keep_sides and self.augmentation == "none":
            raise ValueError(
                'data.keep_sides is on with data.augmentation "none", which mirrors nothing; turn it off, or choose another'
            )
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


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Optimiser. No decay where a tensor has exactly one dimension (biases, norms), as the official code has it."""

    lr: Annotated[float, Range(above=0, high=1)]
    """Learning rate of the encoders, before warm-up and cosine."""
    head_lr: Annotated[float, Range(above=0, high=1)]
    """Rate of the heads named in `head_names`."""
    head_names: tuple[str, ...] = ("prd_head", "mrtd_head")
    """Modules that train at `head_lr`: any part of a parameter's dotted name."""
    weight_decay: Share = 0.02
    """Decoupled decay: a step takes this share, times the learning rate, off a weight."""
    betas: Annotated[tuple[float, float], Range(0, below=1)] = (0.9, 0.999)
    """How much of their past the averages of gradients and of their squares keep."""
    eps: Positive = 1e-8
    """Added to the root of the averaged squares, so that nothing is divided by 0."""
    clip_norm: NotNegative = 0.0
    """Largest gradient norm; 0 = no clipping."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """Learning rate: warm-up, then cosine from the group's rate to `min_lr`."""

    epochs: Positive
    """Length of training in passes over the pairs; the last step is rounded up."""
    min_lr: NotNegative = 1e-6
    """Where the cosine ends, for every group."""
    warmup_steps: CountOrNone = 0
    """Steps in which the rate rises from `warmup_lr` to the group's."""
    warmup_lr: NotNegative = 1e-5
    """Rate of the first step, where there is a warm-up."""
    warmup: Literal["linear", "hold"] = "linear"
    """`linear`, or as the official ALBEF family: `hold` keeps `warmup_lr`, and the rate then rises in `warmup_stairs` jumps.
    That warm-up ends with the first epoch."""
    warmup_stairs: Count = 1
    """Jumps of `hold`, (warmup_steps - 1) / warmup_stairs steps apart. The official `warmup_epochs: 2` is
    `warmup_steps` = 201 and `warmup_stairs` = 2: at 0, then half way up after step 100, at the top after step 200."""
    every: Literal["step", "epoch"] = "step"
    """Cosine evaluated at each step, or at the start of each epoch (the official ALBEF family)."""
    max_steps: CountOrNone = 0
    """Stop after so many steps (0 = after `epochs`); the curve does not change."""
    second_stage_epoch: NotNegative = 0.0
    """Where a second stage begins, with the curve from its start and a new optimiser state (LAIP); 0 = one stage."""

    def __post_init__(self) -> None:
        check_ranges(self, "schedule")
        if self.warmup_stairs > 1 and (self.warmup != "hold" or (self.warmup_steps - 1) % self.warmup_stairs):
            raise ValueError(
                f"schedule.warmup_stairs is {self.warmup_stairs}, expected 1, or schedule.warmup = hold and a divisor of"
                f" schedule.warmup_steps - 1 ({self.warmup_steps - 1}); change one of them"
            )
        if self.second_stage_epoch and not 0 < self.second_stage_epoch < self.epochs:
            raise ValueError(
                f"schedule.second_stage_epoch is {self.second_stage_epoch:g}, expected more than 0 and less than"
                f" schedule.epochs ({self.epochs:g}), or 0 for one stage; change one of them"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where weights come from when the run folder has no checkpoint: `weights`, else `bert`/`vit`, else scratch."""

    weights: str = ""
    """A file made by `tbps convert` or exported from a run, or a run folder (its best checkpoint)."""
    bert: str = ""
    """BERT weights: a Hugging Face name or local path."""
    vit: str = ""
    """ViT weights: a Hugging Face name or local path."""
    sha256: str = ""
    """Expected digest of the `weights` file; empty = not checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """How the loop runs."""

    seed: Annotated[int, Range(0, 2**63 - 1)] = 42
    """All random numbers of a run follow from it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast; weights, momentum twin and queue stay float32."""
    activation_checkpointing: bool = field(default=False, metadata=PLACE)
    """Recompute encoder blocks in backward: less memory, the same losses."""
    compile: bool = field(default=False, metadata=PLACE)
    """torch.compile for the image encoder's blocks (CUDA only)."""
    log_steps: Count = field(default=50, metadata=PLACE)
    """Steps between two lines of the log."""
    save_steps: Annotated[int, Range(0, because="0 saves at evaluations and at the end only")] = field(
        default=500, metadata=PLACE
    )
    """Steps between checkpoints; one is also written at each evaluation and at the end."""
    keep_checkpoints: Count = field(default=2, metadata=PLACE)
    """Newest checkpoints that stay, beside the best."""
    wandb: bool = field(default=False, metadata=PLACE)
    """Log to Weights & Biases (offline unless logged in)."""
    timeout_s: Annotated[float, Range(5, because="seconds within which processes are missed")] = field(
        default=600.0, metadata=PLACE
    )
    """Processes that wait longer than this for another one, or for a server of shards, give up; it is named."""
    tensorboard: bool = field(default=True, metadata=PLACE)
    """Write TensorBoard files into the run folder."""

    def __post_init__(self) -> None:
        check_ranges(self, "loop")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """When and how retrieval is scored."""

    every_epochs: NotNegative = 1.0
    """Epochs between validations; 0 = only at the end."""
    rerank_k: CountOrNone = 128
    """Images per caption that the matching head re-ranks (0 = rank by similarity alone)."""
    validation_rerank: bool = False
    """Re-rank in validation too; the final test always does if `rerank_k` > 0."""
    selection: Literal["val", "last"] = "val"
    """Which checkpoint is tested: best mean of rank-1 and mAP on val, or the last (data sets without a val split)."""
    tail: Literal["similarity", "index"] = "similarity"
    """Order of the images beyond `rerank_k`: by similarity, or by index as the official fill value with a stable sort."""
    test: bool = True
    """Touch the test split, once, at the end."""
    batch_images: Count = field(default=64, metadata=PLACE)
    """Gallery images of one forward pass."""
    batch_captions: Count = field(default=256, metadata=PLACE)
    """Queries of one forward pass."""

    def __post_init__(self) -> None:
        check_ranges(self, "evaluation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything one run is."""

    recipe: str
    """Name of the recipe, for the run folder `runs/<recipe>/<name>/`."""
    name: str
    """Name of the run, for its folder."""
    runs: str = field(default="runs", metadata=PLACE)
    """Folder of all runs."""
    method: Albef | Rasa | Mars | Aga | Laip
    data: Data
    optim: AdamW
    schedule: Cosine
    start: Start = Start()
    loop: Loop = Loop()
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        check_name("the recipe's name", self.recipe)
        check_name("the run's name", self.name)
        check_folder("the folder of runs", self.runs)
        for name, path in (
            ("data.root", self.data.root),
            ("data.cache", self.data.cache),
            ("data.captioning.vocabulary", self.data.captioning.vocabulary),
            ("start.weights", self.start.weights),
            ("start.bert", self.start.bert),
            ("start.vit", self.start.vit),
        ):
            check_home(name, path)
        check_consistency(self)

    def as_begun(self, recorded: Run) -> Run:
        """This run with what is only known where it runs taken from `recorded`, its own record, where this one is silent."""
        name = self.data.captioning.chunker_name or recorded.data.captioning.chunker_name
        return replace(self, data=replace(self.data, captioning=replace(self.data.captioning, chunker_name=name)))

    def check_zero_stage(self, stage: int) -> None:
        """ValueError where this run cannot train under a stage of ZeRO; 0 = DDP or one process."""
        method = type(self.method).__name__
        if stage not in (0, *self.method.ZERO_STAGES):
            legal = ", ".join(map(str, self.method.ZERO_STAGES)) or "none"
            raise ValueError(
                f"{method} cannot train under ZeRO-{stage}, expected DDP or a stage of {legal}: change the launch settings"
            )
        if stage == 3 and self.loop.compile:
            raise ValueError(
                "loop.compile is on under ZeRO-3, which gathers weights block by block: turn it off, or use ZeRO-2"
            )

"""A whole run as frozen values: data, method, optimiser, schedule, loop, evaluation. Imports nothing heavy.

Fields marked `place` say where or how verbosely a run happens, not what it computes: they are left out of the hash that
decides whether a run folder may be continued.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tbps.config.methods import Aga, Albef, Laip, Mars, Rasa

Benchmark = Literal["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco"]


def _place(default: object) -> object:
    return field(default=default, metadata={"place": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """How captions become tokens."""

    vocabulary: str
    """A Hugging Face tokenizer name, or a local `vocab.txt` / `tokenizer.json`."""
    max_words: int
    """Words kept of a caption."""
    max_tokens: int
    """Word pieces kept, [CLS] included; an attribute chunk that does not fit whole is dropped, not cut."""
    punctuation: Literal["space", "delete"] = "space"
    """ALBEF, RaSa and MARS delete punctuation, which joins "shirt.His" into one word: "delete" repeats that."""
    chunker: Literal["auto", "spacy", "builtin"] = "auto"
    """Who finds adjective-noun chunks: spaCy's en_core_web_sm, the built-in matcher, or the first where installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Training pairs and how a batch is made of them."""

    benchmark: Benchmark
    root: str = _place("")  # type: ignore[assignment]
    """Folder with the annotation file and images as published, or a folder / http(s) / s3 URL of shards with an index."""
    cache: str = _place("~/.cache/tbps/shards")  # type: ignore[assignment]
    """Where remote shards are kept."""
    captioning: Captioning
    image_px: tuple[int, int]
    """Height and width an image is resized to."""
    augmentation: Literal["none", "flip", "crop-erase", "randaugment"] = "flip"
    """RaSa and MARS: flip; AGA, IRRA: flip + padded crop + erasing; ALBEF: resized crop + flip + two random operations."""
    weak_positive_probability: float = 0.0
    """How often a caption is swapped for another of the same identity."""
    weak_positive_pool: Literal["identity", "other-image"] = "identity"
    """Any caption of the identity (RaSa's and MARS's code), or only captions of its other images (the papers' words)."""
    batch_pairs: int
    """Pairs of one optimiser step over all processes."""
    group_pairs: int
    """Pairs that contrast with each other (the papers' per-GPU batch); divides `batch_pairs`."""
    micro_batch_pairs: int = _place(0)  # type: ignore[assignment]
    """Pairs of one forward pass on one process; the rest is accumulated. 0 = all of a process's share."""
    workers: int = _place(2)  # type: ignore[assignment]
    """Loader processes per rank."""
    limit_pairs: int = 0
    """Use only the first so many pairs (0 = all): for trials."""

    def __post_init__(self) -> None:
        if self.group_pairs < 2:
            raise ValueError(
                f"data.group_pairs is {self.group_pairs}, expected at least 2: hard negatives need a second pair"
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
        if not 0 <= self.weak_positive_probability <= 1:
            raise ValueError(f"data.weak_positive_probability is {self.weak_positive_probability}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Optimiser. No decay where a tensor has exactly one dimension (biases, norms), as the official code has it."""

    lr: float
    head_lr: float
    """Rate of the heads named in `head_names`."""
    head_names: tuple[str, ...] = ("prd_head", "mrtd_head")
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 0.0
    """Largest gradient norm; 0 = no clipping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """Learning rate: warm-up, then cosine from the group's rate to `min_lr`."""

    epochs: float
    min_lr: float = 1e-6
    warmup_steps: int = 0
    """Steps at `warmup_lr` rising linearly to the group's rate."""
    warmup_lr: float = 1e-5
    warmup: Literal["linear", "hold"] = "linear"
    """`hold` keeps `warmup_lr` for `warmup_steps` steps, then jumps (the official ALBEF family)."""
    every: Literal["step", "epoch"] = "step"
    """Cosine evaluated at each step, or at the start of each epoch (the official ALBEF family)."""
    max_steps: int = 0
    """Stop after so many steps (0 = after `epochs`); the curve does not change."""
    second_stage_epoch: float = 0.0
    """Where a second stage begins, with the curve from its start and a new optimiser state (LAIP); 0 = one stage."""

    def __post_init__(self) -> None:
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

    seed: int = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = _place(False)  # type: ignore[assignment]
    """Recompute encoder blocks in backward: less memory, the same losses."""
    compile: bool = _place(False)  # type: ignore[assignment]
    """torch.compile for the image encoder's blocks (CUDA only)."""
    log_steps: int = _place(50)  # type: ignore[assignment]
    save_steps: int = _place(500)  # type: ignore[assignment]
    """Steps between checkpoints; one is also written at each evaluation and at the end."""
    keep_checkpoints: int = _place(2)  # type: ignore[assignment]
    wandb: bool = _place(False)  # type: ignore[assignment]
    """Log to Weights & Biases (offline unless logged in)."""
    timeout_s: float = _place(600.0)  # type: ignore[assignment]
    """Processes that wait longer than this for another one, or for a server of shards, give up; it is named."""
    tensorboard: bool = _place(True)  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """When and how retrieval is scored."""

    every_epochs: float = 1.0
    """Epochs between validations; 0 = only at the end."""
    rerank_k: int = 128
    """Images per caption that the matching head re-ranks (0 = rank by similarity alone)."""
    validation_rerank: bool = False
    """Re-rank in validation too; the final test always does if `rerank_k` > 0."""
    selection: Literal["val", "last"] = "val"
    """Which checkpoint is tested: best mean of rank-1 and mAP on val, or the last (data sets without a val split)."""
    tail: Literal["similarity", "index"] = "similarity"
    """Order of the images beyond `rerank_k`: by similarity, or by index as the official fill value with a stable sort."""
    test: bool = True
    """Touch the test split, once, at the end."""
    batch_images: int = field(default=64, metadata={"place": True})
    batch_captions: int = field(default=256, metadata={"place": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything one run is."""

    recipe: str
    """Name of the recipe, for the run folder `runs/<recipe>/<name>/`."""
    name: str
    runs: str = _place("runs")  # type: ignore[assignment]
    """Folder of all runs."""
    method: Albef | Rasa | Mars | Aga | Laip
    data: Data
    optim: AdamW
    schedule: Cosine
    start: Start = Start()
    loop: Loop = Loop()
    evaluation: Evaluation = Evaluation()

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

"""A whole run as frozen values: data, method, optimiser, schedule, loop, evaluation. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tbps.config.consistency import check_consistency
from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.lora import Lora
from tbps.config.methods.method import MethodConfig
from tbps.config.names import check_folder, check_home, check_name
from tbps.config.needs import Needs
from tbps.config.optim import Optimiser
from tbps.config.place import PLACE
from tbps.config.schedule import Schedule
from tbps.config.start import Start


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything one run is."""

    recipe: str
    """Name of the recipe, for the run folder `runs/<recipe>/<name>/`."""
    name: str
    """Name of the run, for its folder."""
    runs: str = field(default="runs", metadata=PLACE)
    """Folder of all runs."""
    method: MethodConfig
    """The system that is trained; its kind decides what settings it has."""
    data: Data
    """Training pairs, and how a batch is made of them."""
    optim: Optimiser
    """Optimiser: rates, weight decay, clipping."""
    schedule: Schedule
    """Length of training, and the learning rate over it."""
    start: Start = Start()
    """Weights that training starts from."""
    lora: Lora = Lora()
    """Low-rank adapters on frozen encoders."""
    loop: Loop = Loop()
    """Seed, precision, checkpoints, logs."""
    evaluation: Evaluation = Evaluation()
    """When and how retrieval is scored."""

    def __post_init__(self) -> None:
        check_name("the recipe's name", self.recipe)
        check_name("the run's name", self.name)
        check_folder("the folder of runs", self.runs)
        for name, path in (
            ("data.root", self.data.root),
            *((f"data.roots, {source.name},", source.root) for source in self.data.mixture),
            ("data.cache", self.data.cache),
            ("data.captioning.vocabulary", self.data.captioning.vocabulary),
            ("start.weights", self.start.weights),
            ("start.bert", self.start.bert),
            ("start.vit", self.start.vit),
            ("lora.adapters", self.lora.adapters),
            ("start.clip", self.start.clip),
        ):
            check_home(name, path)
        check_consistency(
            method=self.method, data=self.data, optim=self.optim, schedule=self.schedule, evaluation=self.evaluation
        )

    @property
    def needs(self) -> Needs:
        """What the method wants of a batch."""
        return self.method.needs(self.data.image_px)

    @property
    def reranks(self) -> bool:
        """Whether the method's matcher scores anything in this run."""
        evaluation = self.evaluation
        return evaluation.rerank_k > 0 and (evaluation.test or evaluation.validation_rerank) and self.needs.matcher

    def as_begun(self, recorded: Run) -> Run:
        """This run with what is only known where it runs taken from `recorded`, its own record, where this one is silent."""
        name = self.data.captioning.chunker_name or recorded.data.captioning.chunker_name
        captioning = replace(self.data.captioning, chunker_name=name)
        num_identities = self.data.num_identities or recorded.data.num_identities
        return replace(self, data=replace(self.data, captioning=captioning, num_identities=num_identities))

    def check_zero_stage(self, stage: int) -> None:
        """ValueError where this run cannot train under a stage of ZeRO; 0 = DDP or one process."""
        method = type(self.method).__name__
        legal_stages = self.needs.zero_stages
        if stage not in (0, *legal_stages):
            legal = ", ".join(map(str, legal_stages)) or "none"
            raise ValueError(
                f"{method} cannot train under ZeRO-{stage}, expected DDP or a stage of {legal}: change the launch settings"
            )
        if stage == 3 and self.loop.compile:
            raise ValueError(
                "loop.compile is on under ZeRO-3, which gathers weights block by block: turn it off, or use ZeRO-2"
            )

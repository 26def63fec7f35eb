"""What the settings of every method are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.needs import Needs


@dataclass(frozen=True, kw_only=True, slots=True)
class TableNumber:
    """A number of a method's log that tables of results show too: its mean over the last training steps."""

    name: str
    """Under which the method logs it."""
    heading: str
    """Of its column, with the unit."""
    factor: float = 1.0
    """By what it is multiplied for the table: 100 makes a share a percentage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodConfig:
    """Settings of one method. A subclass is a frozen, keyword-only dataclass in a file of its own."""

    MODULE: ClassVar[str] = ""
    """Dotted name of the module whose function `build` makes the method. A name only: configs import no method."""
    TRAINING_ONLY: ClassVar[tuple[str, ...]] = ()
    """How the names of parameters begin that ranking does not read, and no other training either: every export leaves them
    out. What `tbps export` leaves out beside: `training_heads`."""

    TABLE_NUMBERS: ClassVar[tuple[TableNumber, ...]] = ()
    """Numbers of its log that tables of results show."""

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """What the method wants of a batch of images of this height and width."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it needs: define needs(self, image_px)")

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """ValueError where these settings do not fit the data or the evaluation; called when a run is made."""

    def training_heads(self) -> tuple[str, ...]:
        """How the names of parameters begin that losses read, and neither ranking nor re-ranking does: `tbps export` leaves
        them out, `tbps convert --export` keeps them for a training that goes on from its file. Default: none."""
        return ()

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int] | None:
        """Rows and columns of the patches of an image, by which tables of positions are resized; None = it has none."""
        return None

    def told(self) -> dict[str, str]:
        """What a file of the method's weights must say of these settings, because no tensor's shape does: under other
        ones the weights would fit, and every number would be wrong. Names: tbps/convert/clip_fit.py. Default: nothing."""
        return {}

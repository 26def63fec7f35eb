"""Settings that all methods on CLIP's two towers share."""

from __future__ import annotations

from dataclasses import dataclass, field

from tbps.config.clip_sizes import ClipSizes
from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFamily(MethodConfig):
    """CLIP's towers, and what follows from their sizes."""

    towers: ClipSizes = field(default_factory=ClipSizes)
    """CLIP's image and text encoder."""

    @property
    def mask_id(self) -> int:
        """Id of the masked word: the last byte pair's, before the ids of start and end (49405 in CLIP's vocabulary)."""
        return self.towers.text.vocabulary_size - 3

    def text(self, *, masks_words: bool) -> Text:
        """What the text tower reads; masks_words: the method puts `mask_id` in the place of words."""
        tower = self.towers.text
        return Text(
            tokeniser="clip",
            size=tower.vocabulary_size,
            max_tokens=tower.max_positions,
            start_id=tower.vocabulary_size - 2,
            mask_id=self.mask_id if masks_words else None,
            settings="method.towers.text",
        )

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """See the base class."""
        return self.towers.grid(image_px)

    def told(self) -> dict[str, str]:
        """See the base class."""
        return self.towers.told()

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        self.towers.grid(data.image_px)


def check_ranking_trained(*, sdm: float, identity: float) -> None:
    """ValueError: both losses that compare whole images and captions have weight 0 (IRRA, BiLMa)."""
    if not (sdm or identity):
        raise ValueError(
            "method.weights.sdm and method.weights.identity are 0, expected one of them above 0: no other loss trains"
            " the features that images are ranked by"
        )

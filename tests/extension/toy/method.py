"""The method: two small encoders and the pairwise sigmoid loss. B pairs, G of the whole batch, L letters, E features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbps.config.data import Captioning
from tbps.data.batch import Batch, Draws
from tbps.data.fields import Field
from tbps.data.pairs import PairSource
from tbps.data.shown_pairs import ShownSplit
from tbps.methods.exhibit import Exhibit, Number, Part, Table
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, LossesAndNumbers, Method
from tbps.nn.dropout import Groups, Site, drop
from tbps.text.token_batch import Captions
from toy.config import Toy
from toy.letters import Letters
from toy.loss import pairwise_sigmoid


def read_camera(source: PairSource, index: int) -> Tensor:
    """A number for the folder that a pair's image lies in: one camera each in CUHK-PEDES."""
    return torch.tensor(sum(map(ord, source.key(index).split("/")[0])))


FIELDS = {"camera": Field(read=read_camera)}
"""Further fields of each pair that `needs` asks for by name."""


class ToyMethod(Method):
    """Losses: sigmoid. Numbers for the log: scale."""

    def __init__(self, config: Toy, *, image_px: tuple[int, int]) -> None:
        super().__init__(weights={"sigmoid": 1.0})
        self.config, width = config, config.width
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.rows = nn.Linear(image_px[0] // 8 * width, width)
        self.letters = nn.Embedding(Letters.size, width)
        self.windows = nn.Conv1d(width, width, 9, padding=4)
        self.words = nn.Linear(width, width)
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """What each pair brings to a loss of the whole batch."""
        hidden_BL = draws["hidden"][:, 0] < self.config.hidden_letters
        return {
            "image": self.image_feature(batch.image_BCHW, groups=groups_of(batch)),
            "text": self.text_feature(batch.own, groups=groups_of(batch), hidden_BL=hidden_BL),
            "camera": batch.fields["camera"],
        }

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Losses, and numbers that are only logged."""
        whole = batch.scope.whole(self.contrast_rows(batch, draws))
        same_GG = whole["camera"][:, None] == whole["camera"]
        scale = self.log_scale.exp()
        loss = pairwise_sigmoid(
            whole["image"],
            whole["text"],
            batch.scope.identity_G,
            torch.where(same_GG, 1.0, self.config.other_camera),
            scale=scale,
            bias=self.bias,
        )
        return {"sigmoid": loss}, {"scale": scale}

    def image_feature(self, image_BCHW: Tensor, *, groups: Groups | None = None) -> Tensor:
        """Colours by row of patches: (B, E) unit rows."""
        row_BDH = F.gelu(self.patches(image_BCHW)).mean(3)
        return F.normalize(self.rows(self._drop(row_BDH.flatten(1), groups)), dim=1)

    def text_feature(self, captions: Captions, *, groups: Groups | None = None, hidden_BL: Tensor | None = None) -> Tensor:
        """The strongest answer of each window over a caption: (B, E) unit rows. Padding is told by the lengths alone."""
        device = self.words.weight.device
        ids_BL = (
            captions.token_ids_BL if hidden_BL is None else captions.token_ids_BL.masked_fill(hidden_BL, Letters.mask_id)
        )
        inside_BL = torch.arange(ids_BL.shape[1]) < torch.tensor(captions.lengths)[:, None]
        letter_BLD = self.letters(ids_BL.to(device)) * inside_BL[..., None].to(device)
        answer_BDL = self.windows(letter_BLD.transpose(1, 2)).masked_fill(~inside_BL[:, None].to(device), float("-inf"))
        return F.normalize(self.words(self._drop(answer_BDL.amax(2), groups)), dim=1)

    def _drop(self, x_BD: Tensor, groups: Groups | None) -> Tensor:
        return x_BD if groups is None else drop(x_BD, Site.next(self.config.dropout, self.training), groups)

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """For ranking."""
        return EmbeddedImages(feature_IE=self.image_feature(image_BCHW))

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """For ranking."""
        return EmbeddedCaptions(feature_QE=self.text_feature(captions))

    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """For the report: at which similarity a pair is as likely one person's as not."""
        even = -self.bias.item() / self.log_scale.exp().item()
        table = Table(columns=("similarity",), rows=((Number(value=even),),))
        return [Exhibit(title="Where two persons part", parts=(Part(tables=(table,)),))]


def groups_of(batch: Batch) -> Groups:
    """Whose units are dropped together, however the batch is shared out."""
    numbers = range(batch.first_group, batch.first_group + batch.num_groups)
    return Groups(numbers=tuple(numbers), rows=(batch.group_pairs,) * batch.num_groups)


def open_tokeniser(captioning: Captioning) -> Letters:
    """The tokeniser that `needs` calls "own"."""
    return Letters()


def build(config: Toy, *, image_px: tuple[int, int]) -> ToyMethod:
    """The method with random weights."""
    return ToyMethod(config, image_px=image_px)

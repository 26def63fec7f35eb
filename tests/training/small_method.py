"""A real method in miniature (dropout, momentum encoder, queue, two losses), its batches and its run, for loop tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from tbps.config.data import Captioning, Data
from tbps.config.encoders import Vit
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.albef import Albef
from tbps.config.needs import Draw
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.data.batch import Batch, Draws, HostBatch
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.data.loader import MicroBatch, MicroBatchSampler, TrainingLoader
from tbps.data.sample_order import BatchOrder, PairOrder
from tbps.methods.method import LossesAndNumbers, Method
from tbps.nn.dropout import Groups, Site, drop
from tbps.nn.momentum import advance, momentum_copy
from tbps.nn.queue import FeatureQueue
from tbps.text.token_batch import Captions
from tbps.training.parts import Parts

NUM_PAIRS = 40
WORKERS = 2
"""Loader processes of runs in processes of their own, as in recipes: what kills, stops or hangs a run meets them too."""
_PX = 8
_WORDS = 50
_WIDTH = 16
_DRAWS = (Draw(name="noise", numbers=2), Draw(name="masks", per="token", numbers=9), Draw(name="patches", numbers=4))


class SmallEncoder(nn.Module):
    """Pixels and words to unit rows."""

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.image = nn.Linear(3 * _PX * _PX, _WIDTH)
        self.words = nn.Embedding(_WORDS, _WIDTH)
        self.text = nn.Linear(_WIDTH, _WIDTH)
        self.dropout = dropout

    def embed_image(self, image_BCHW: Tensor, groups: Groups) -> Tensor:
        return F.normalize(self._drop(self.image(image_BCHW.flatten(1)), groups), dim=1)

    def embed_text(self, captions: Captions, groups: Groups) -> Tensor:
        device = self.words.weight.device
        mean_BD = self.words(captions.token_ids_BL.to(device)).mean(1)
        return F.normalize(self.text(self._drop(mean_BD, groups)), dim=1)

    def _drop(self, x_BD: Tensor, groups: Groups) -> Tensor:
        return drop(x_BD, Site.next(self.dropout, self.training), groups)


class SmallMethod(Method):
    """Contrast within groups and against the queue, and a head that tells replaced captions. Number: their share."""

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__(weights={"itc": 1.0, "prd": 0.5})
        self.online = SmallEncoder(dropout=dropout)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.prd_head = nn.Linear(_WIDTH, 2)
        self.queue = FeatureQueue(num_pairs=24, width=_WIDTH)
        self.momentum_encoder = momentum_copy(self.online)
        self.frozen: tuple[str, ...] = ()
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def untrained(self, *, reranks: bool) -> list[str]:
        return [name for name, parameter in self.named_parameters() if name in self.frozen]

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        numbers = range(batch.first_group, batch.first_group + batch.num_groups)
        groups = Groups(numbers=tuple(numbers), rows=(batch.group_pairs,) * batch.num_groups)
        image_BE, text_BE = self.online.embed_image(batch.image_BCHW, groups), self.online.embed_text(batch.paired, groups)
        with torch.no_grad():
            momentum_image_BE = self.momentum_encoder.embed_image(batch.second_image_BCHW, groups)
            momentum_text_BE = self.momentum_encoder.embed_text(batch.paired, groups)
        self._pending.append((momentum_image_BE, momentum_text_BE, batch.identity_B))
        contrast = []
        for rows in torch.arange(len(image_BE)).split(batch.group_pairs):
            key_KE = torch.cat([momentum_text_BE[rows], self.queue.caption_KE])
            logits = image_BE[rows] @ key_KE.T / self.temperature
            noise = 0.01 * draws["noise"][rows].float().mean()  # of the group: a loss must not know its micro-batch
            contrast.append(F.cross_entropy(logits, torch.arange(len(rows))) * (1 + noise))
        losses = {"itc": torch.stack(contrast).mean(), "prd": F.cross_entropy(self.prd_head(text_BE), batch.replaced_B)}
        return losses, {"replaced": batch.replaced_B.float().mean()}

    @torch.no_grad()
    def before_first_step(self) -> None:
        advance(self.momentum_encoder, self.online, momentum=0.9)

    @torch.no_grad()
    def after_step(self) -> None:
        parts = [torch.cat(part) for part in zip(*self._pending)]
        self._pending = []
        if dist.is_initialized() and dist.get_world_size() > 1:
            parts = [torch.cat(_all_gather(part)) for part in parts]
        self.queue.push(*parts)
        self.before_first_step()


def _all_gather(part: Tensor) -> list[Tensor]:
    out = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(out, part.contiguous())
    return out


class SmallDataset(Dataset[HostBatch]):
    """Batches that depend on (seed, step, pair) only. The random numbers of batches that begin at `nan_epoch` are NaN."""

    def __init__(self, *, nan_epoch: float | None) -> None:
        self.nan_epoch = nan_epoch

    def __getitem__(self, micro_batch: MicroBatch) -> HostBatch:
        batch = self._make(micro_batch.pairs, micro_batch.epoch)
        if micro_batch.epoch == self.nan_epoch:
            batch.draws["noise"].fill_(float("nan"))
        return batch

    def _make(self, pairs: tuple[tuple[int, int], ...], epoch: float) -> HostBatch:
        generators = [generator_of(seed=3, epoch=e, key=str(pair), use="small") for e, pair in pairs]
        token_ids_BL = torch.stack([torch.randint(1, _WORDS, (8,), generator=g) for g in generators])
        captions = Captions(token_ids_BL=token_ids_BL, lengths=(8,) * len(pairs), chunk_id_BL=torch.zeros_like(token_ids_BL))
        draws = [draw_pair(_DRAWS, generator=g, num_tokens=8) for g in generators]
        return HostBatch(
            pixels_BCHW=torch.stack(
                [torch.randint(0, 256, (3, _PX, _PX), generator=g, dtype=torch.uint8) for g in generators]
            ),
            second_pixels_BCHW=None,
            flip_BV=torch.tensor([[pair % 2 == 0, pair % 3 == 0] for _, pair in pairs]),
            shift_BV2=None,
            erase_BV4=None,
            own=captions,
            paired=captions,
            replaced_B=torch.tensor([pair % 2 for _, pair in pairs]),
            identity_B=torch.tensor([pair for _, pair in pairs]),
            draws=stack_draws(_DRAWS, draws, length=8),
            keys=tuple(f"pair-{pair}" for _, pair in pairs),
            epoch=epoch,
        )


def small_run(
    runs: Path,
    *,
    steps: int = 12,
    batch_pairs: int = 8,
    micro_batch_pairs: int = 0,
    save_steps: int = 3,
    every_epochs: float = 0.8,
    lr: float = 1e-2,
    clip_norm: float = 1.0,
    eps: float = 1e-8,
    kind: Literal["adamw", "adam"] = "adamw",
    precision: Literal["fp32", "bf16"] = "fp32",
    timeout_s: float = 600.0,
    second_stage_epoch: float = 0.0,
    workers: int = 0,
    profile: int = 0,
) -> Run:
    """A run of `steps` steps: 5 steps an epoch, validated every 4."""
    return Run(
        recipe="small",
        name="test",
        runs=str(runs),
        method=Albef(vit=Vit(patch_px=_PX)),
        data=Data(
            benchmark="cuhk-pedes",
            captioning=Captioning(vocabulary="none", max_words=8, max_tokens=8),
            image_px=(_PX, _PX),
            batch_pairs=batch_pairs,
            group_pairs=4,
            micro_batch_pairs=micro_batch_pairs,
            workers=workers,
        ),
        optim=Optimiser(lr=lr, rules=(Rule(pattern="prd_head", factor=10.0),), clip_norm=clip_norm, eps=eps, kind=kind),
        schedule=Schedule(epochs=steps * batch_pairs / NUM_PAIRS, warmup_steps=2, second_stage_epoch=second_stage_epoch),
        loop=Loop(
            precision=precision, save_steps=save_steps, log_steps=2, tensorboard=False, timeout_s=timeout_s, profile=profile
        ),
        evaluation=Evaluation(every_epochs=every_epochs),
    )


def _make_batches(run: Run, *, nan_step: int, **where: Any) -> TrainingLoader:
    """Through the loader that real data goes through, workers included."""
    data = run.data
    order = BatchOrder(PairOrder(NUM_PAIRS, seed=1), batch_pairs=data.batch_pairs, group_pairs=data.group_pairs)
    sampler = MicroBatchSampler(order=order, micro_batch_pairs=data.micro_batch_pairs, **where)
    nan_epoch = order.epoch(nan_step) if nan_step >= 0 else None
    dataset = SmallDataset(nan_epoch=nan_epoch)
    return TrainingLoader(dataset, sampler, workers=data.workers, patience_s=run.loop.timeout_s)


def score(method: nn.Module, step: int) -> dict[str, float]:
    """A number that depends on every weight of the online encoder; falls and rises with the step."""
    assert not method.training
    total = sum(float(parameter.double().abs().sum()) for parameter in method.parameters())
    return {"rank_1": total % 100, "mAP": float(step % 7)}


def small_parts(run: Run, *, dropout: float = 0.2, nan_step: int = -1) -> Parts:
    """Parts of the small method."""
    return Parts(
        build=lambda: SmallMethod(dropout=dropout),
        num_pairs=NUM_PAIRS,
        make_batches=lambda **where: _make_batches(run, nan_step=nan_step, **where),
        validate=score,
        test=score,
    )

"""Training micro-batches and evaluation batches from a source of pairs, made by worker processes.

Shapes: B pairs, H height, W width, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tbps.config.data import Data, Pixels
from tbps.config.needs import Draw, Needs
from tbps.data.augmentation import ViewDraws, change_on_host, draw_views, uniforms
from tbps.data.batch import HostBatch
from tbps.data.draws import draw_pair, generator_of, stack_draws
from tbps.data.fields import FIELDS, Field, choose_fields, read_field
from tbps.data.images import decode, resize, resize_exactly
from tbps.data.label_maps import check_size, resize_map, swap_sides
from tbps.data.mixture import make_order
from tbps.data.pairs import EvaluationSet, PairSource
from tbps.data.sample_order import BatchOrder
from tbps.data.worker_batches import PATIENCE_S, load
from tbps.text.captions import CaptionEncoder, EncodedCaption, make_captions, says_side, with_word_starts
from tbps.text.rewording import Rewriter
from tbps.text.token_batch import Captions

UNREAD = "person"
"""The caption of every pair for a method that reads none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Which pairs one forward pass of one rank sees."""

    pairs: tuple[tuple[int, int], ...]
    """(epoch, pair index) in the order of the global batch."""
    epoch: float
    """Epochs of pairs before the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """One loaded pair before it is stacked."""

    key: str
    pixels: tuple[Tensor, ...]
    """(3, H, W) uint8: of each view that has pixels of its own, the first at least."""
    views: ViewDraws
    own: EncodedCaption
    paired: EncodedCaption
    replaced: bool
    reworded: EncodedCaption | None
    identity: int
    draws: dict[str, Tensor]
    maps: dict[str, Tensor]
    """(H, W) uint8 label maps, with sides exchanged where the first view is mirrored."""
    fields: dict[str, Tensor]


class PairDataset(Dataset[HostBatch]):
    """Micro-batches by the pairs they hold. Every random choice is keyed by (seed, epoch, pair key)."""

    def __init__(
        self,
        source: PairSource,
        encoder: CaptionEncoder,
        data: Data,
        needs: Needs,
        *,
        seed: int,
        fields: Mapping[str, Field] = FIELDS,
    ) -> None:
        """fields: those that `needs.fields` may name."""
        chosen = choose_fields(needs.fields, fields)
        self.source = source
        self.encoder = encoder
        self.data = data
        self.needs = needs
        self.seed = seed
        self.maps = {name: field for name, field in chosen.items() if field.label_map}
        self.fields = {name: field for name, field in chosen.items() if not field.label_map}
        margin = data.decode_margin
        if margin and self.maps:
            raise ValueError(
                f"data.decode_margin is {margin}, expected 0: the method asks for {', '.join(self.maps)}, which lies over"
                " images of their whole size"
            )
        self.at_least_px = (math.ceil(margin * data.image_px[0]), math.ceil(margin * data.image_px[1]))
        self.rewriter = None if needs.rewording is None else Rewriter.of(needs.rewording)
        prompts = [self._encode(prompt, f"prompt {number}") for number, prompt in enumerate(needs.prompts)]
        self.prompts = make_captions(prompts) if prompts else None

    def __getitem__(self, micro_batch: MicroBatch) -> HostBatch:
        """Load and stack the pairs. ValueError names the pair that cannot be loaded."""
        # In the order in which they are stored: each shard is opened, or fetched, once.
        loaded = {pair: self.load(*pair) for pair in sorted(micro_batch.pairs, key=lambda pair: pair[1])}
        pairs = [loaded[pair] for pair in micro_batch.pairs]
        return replace(_stack(pairs, self.needs.draws, epoch=micro_batch.epoch), prompts=self.prompts)

    def load(self, epoch: int, index: int) -> _Pair:
        """Load pair `index` as it is in `epoch`."""
        key = self.source.key(index)
        try:
            return self._load(epoch, index, key)
        except Exception as error:
            if isinstance(error, ValueError) and key not in str(error):
                raise ValueError(f"pair {key}: {error}") from error
            error.add_note(f"while loading pair {key}")
            raise

    def _load(self, epoch: int, index: int, key: str) -> _Pair:
        uniform = uniforms(generator_of(seed=self.seed, epoch=epoch, key=key, use="pair"))
        swapped = self._choose_caption(index, uniform) if self.needs.weak_positives else index
        caption, other = self._caption(index), self._caption(swapped)
        own = self._encode(caption, key)
        paired = own if other == caption else self._encode(other, self.source.key(swapped))
        num_views = 2 if self.needs.second_view else 1
        views = draw_views(self.data.augmentations, num_views=num_views, image_px=self.data.image_px, uniform=uniform)
        if self.data.keep_sides and (says_side(caption) or says_side(other)):
            views = replace(views, flip=(False,) * num_views)  # drawn all the same, so that no other choice moves
        pixels, maps = self._load_image(index, key, num_views, uniform)
        if views.flip[0]:
            maps = {name: swap_sides(map_HW, self.maps[name].sides) for name, map_HW in maps.items()}
        method = generator_of(seed=self.seed, epoch=epoch, key=key, use="method")
        return _Pair(
            key=key,
            pixels=pixels,
            views=views,
            own=own,
            paired=paired,
            # As in RaSa's and MARS's code: drawing an equal sentence is no replacement.
            replaced=other != caption,
            identity=self.source.identity(index),
            reworded=self._reword(epoch, caption, key),
            draws=draw_pair(self.needs.draws, generator=method, num_tokens=len(own.token_ids)),
            maps=maps,
            fields={name: read_field(name, field, self.source, index) for name, field in self.fields.items()},
        )

    def _load_image(
        self, index: int, key: str, num_views: int, uniform: Iterator[float]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """(3, H, W) uint8 of each view that has pixels of its own; label maps of the first view."""
        image_HWC = decode(self.source.image_bytes(index), key=key, at_least_px=self.at_least_px)
        maps = {name: read_field(name, field, self.source, index) for name, field in self.maps.items()}
        for name, map_HW in maps.items():
            try:
                check_size(map_HW, (image_HWC.shape[0], image_HWC.shape[1]))
            except ValueError as error:
                raise ValueError(f"pair {key}, field {name}: {error}") from error
        image_px, interpolation = self.data.image_px, self.data.pixels.interpolation
        if not self.data.changes_on_host:
            resized = {name: resize_map(map_HW, image_px=image_px) for name, map_HW in maps.items()}
            return (resize(image_HWC, image_px=image_px, interpolation=interpolation),), resized
        changed = [
            change_on_host(
                image_HWC,
                self.data.augmentations,
                image_px=image_px,
                interpolation=interpolation,
                uniform=uniform,
                maps={} if view else maps,
            )
            for view in range(num_views)
        ]
        return tuple(pixels for pixels, _ in changed), changed[0][1]

    def _caption(self, index: int) -> str:
        return self.source.caption(index) if self.needs.captions else UNREAD

    def _encode(self, caption: str, key: str) -> EncodedCaption:
        encoded = self.encoder.encode(caption, key)
        return with_word_starts(encoded, self.encoder.tokeniser) if self.needs.word_starts else encoded

    def _reword(self, epoch: int, caption: str, key: str) -> EncodedCaption | None:
        """Another one in each epoch."""
        if self.rewriter is None:
            return None
        generator = generator_of(seed=self.seed, epoch=epoch, key=key, use="rewording")
        return self._encode(self.rewriter.reword(self.encoder.clean(caption), generator), key)

    def _choose_caption(self, index: int, uniform: Iterator[float]) -> int:
        """The pair whose caption stands for pair `index`: itself, or a weak positive."""
        swap, place = next(uniform) < self.data.weak_positive_probability, next(uniform)
        if not swap:
            return index
        candidates = self.source.siblings(index)
        if self.data.weak_positive_pool == "other-image":
            image, images = self.source.image(index), [self.source.image(other) for other in candidates.tolist()]
            candidates = candidates[np.array(images) != image]
            if not len(candidates):
                return index
        return int(candidates[int(place * len(candidates))])


def _stack(pairs: Sequence[_Pair], draws: Sequence[Draw], *, epoch: float) -> HostBatch:
    own = make_captions([pair.own for pair in pairs])
    pixels = [torch.stack(view) for view in zip(*(pair.pixels for pair in pairs), strict=True)]
    corners = [pair.views.corner for pair in pairs if pair.views.corner is not None]
    reworded = [pair.reworded for pair in pairs if pair.reworded is not None]
    erases = [pair.views.erase for pair in pairs if pair.views.erase is not None]
    return HostBatch(
        pixels_BCHW=pixels[0],
        second_pixels_BCHW=pixels[1] if len(pixels) > 1 else None,
        flip_BV=torch.tensor([pair.views.flip for pair in pairs]),
        shift_BV2=torch.tensor(corners) if corners else None,
        erase_BV4=torch.tensor(erases) if erases else None,
        own=own,
        paired=own if all(pair.paired is pair.own for pair in pairs) else make_captions([pair.paired for pair in pairs]),
        replaced_B=torch.tensor([int(pair.replaced) for pair in pairs]),
        identity_B=torch.tensor([pair.identity for pair in pairs]),
        draws=stack_draws(draws, [pair.draws for pair in pairs], length=own.token_ids_BL.shape[1]),
        keys=tuple(pair.key for pair in pairs),
        epoch=epoch,
        reworded=make_captions(reworded) if reworded else None,
        maps={name: _stack_field(name, [(pair.key, pair.maps[name]) for pair in pairs]) for name in pairs[0].maps},
        fields={name: _stack_field(name, [(pair.key, pair.fields[name]) for pair in pairs]) for name in pairs[0].fields},
    )


def _stack_field(name: str, values: Sequence[tuple[str, Tensor]]) -> Tensor:
    """The field of all pairs, by their keys. ValueError: its shape or type is not the same for all."""
    first_key, first = values[0]
    for key, value in values:
        if value.shape != first.shape or value.dtype != first.dtype:
            raise ValueError(
                f"pair {key}, field {name}: it is {tuple(value.shape)} of {value.dtype}, expected {tuple(first.shape)} of"
                f" {first.dtype} as for pair {first_key}; correct the field's reader"
            )
    return torch.stack([value for _, value in values])


@dataclass(frozen=True, kw_only=True)
class MicroBatchSampler:
    """The micro-batches of one rank, step after step."""

    order: BatchOrder
    rank: int
    world_size: int
    start_step: int
    num_steps: int
    micro_batch_pairs: int
    """0 = the rank's whole share of a step."""

    def __post_init__(self) -> None:
        share = self.order.share_pairs(self.world_size)
        if self.micro_batch_pairs and share % self.micro_batch_pairs:
            raise ValueError(
                f"data.micro_batch_pairs is {self.micro_batch_pairs}, expected a divisor of the {share} pairs that each of"
                f" {self.world_size} processes computes in a step; change it or use 0"
            )

    @property
    def micro_batches_per_step(self) -> int:
        """Forward passes of one rank in a step."""
        return self.order.share_pairs(self.world_size) // self.pairs

    @property
    def pairs(self) -> int:
        """Pairs of one micro-batch."""
        return self.micro_batch_pairs or self.order.share_pairs(self.world_size)

    def __len__(self) -> int:
        return self.num_steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in range(self.start_step, self.start_step + self.num_steps):
            share = self.order.indices(step, rank=self.rank, world_size=self.world_size)
            for first in range(0, len(share), self.pairs):
                yield MicroBatch(pairs=tuple(share[first : first + self.pairs]), epoch=self.order.epoch(step))


class TrainingLoader:
    """Iterating gives `micro_batches_per_step` host batches for each step, in order."""

    def __init__(self, dataset: Dataset[HostBatch], sampler: MicroBatchSampler, *, workers: int, patience_s: float) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self._workers = workers
        self._patience_s = patience_s
        self.micro_batches_per_step = sampler.micro_batches_per_step

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[HostBatch]:
        return load(self._dataset, self._sampler, workers=self._workers, patience_s=self._patience_s)


def make_loader(
    source: PairSource,
    encoder: CaptionEncoder,
    data: Data,
    needs: Needs,
    *,
    seed: int,
    fields: Mapping[str, Field] = FIELDS,
    start_step: int,
    num_steps: int,
    rank: int = 0,
    world_size: int = 1,
    patience_s: float = PATIENCE_S,
) -> TrainingLoader:
    """Micro-batches of `rank` for `num_steps` steps from `start_step` on: the same as in a run that was never stopped.

    ValueError at once: batch, groups, micro-batch and world size do not fit; while iterating: a pair cannot be loaded.
    """
    order = BatchOrder(make_order(source, seed=seed), batch_pairs=data.batch_pairs, group_pairs=data.group_pairs)
    sampler = MicroBatchSampler(
        order=order,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        num_steps=num_steps,
        micro_batch_pairs=data.micro_batch_pairs,
    )
    return TrainingLoader(
        PairDataset(source, encoder, data, needs, seed=seed, fields=fields),
        sampler,
        workers=data.workers,
        patience_s=patience_s,
    )


class _GalleryDataset(Dataset[Tensor]):
    """Batches of gallery images by their rows."""

    def __init__(self, evaluation: EvaluationSet, image_px: tuple[int, int], pixels: Pixels) -> None:
        self.evaluation = evaluation
        self.image_px = image_px
        self.pixels = pixels

    def __getitem__(self, images: Sequence[int]) -> Tensor:
        return torch.stack([self.load(image) for image in images])

    def load(self, image: int) -> Tensor:
        image_HWC = decode(self.evaluation.gallery_bytes(image), key=self.evaluation.gallery_key(image))
        return resize_exactly(image_HWC, image_px=self.image_px, interpolation=self.pixels.interpolation)


def load_gallery(
    evaluation: EvaluationSet,
    images: Sequence[int],
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
    batch_images: int,
    workers: int,
) -> Iterator[Tensor]:
    """(at most batch_images, 3, H, W) uint8 for the gallery rows `images`, in order; see `views.normalise_pixels`."""
    batches = [images[first : first + batch_images] for first in range(0, len(images), batch_images)]
    return load(_GalleryDataset(evaluation, image_px, pixels), batches, workers=workers)


def load_queries(
    evaluation: EvaluationSet, queries: Sequence[int], encoder: CaptionEncoder, *, batch_captions: int
) -> Iterator[Captions]:
    """Captions of the query rows `queries`, in order, at most `batch_captions` at a time."""
    for first in range(0, len(queries), batch_captions):
        yield make_captions(
            [
                encoder.encode(evaluation.query_caption(query), evaluation.query_key(query))
                for query in queries[first : first + batch_captions]
            ]
        )

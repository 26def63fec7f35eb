"""Writes a whole synthetic data set, in parallel; the same arguments give the same bytes on any number of workers.

Called from a script with more than one worker, this needs the usual `if __name__ == "__main__":` around the call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tbps.config.data import Benchmark
from tbps.data.label_maps import encode_map, map_path
from tbps.data.worker_pool import worker_pool
from tbps.synthetic.camera import encode, make_camera
from tbps.synthetic.descriptions import write_caption
from tbps.synthetic.formats import FORMATS, annotation_row, image_path, split_sizes
from tbps.synthetic.mals import attribute_labels
from tbps.synthetic.pa_100k import pa_100k_labels
from tbps.synthetic.person import Crowd, Person, differing_attributes
from tbps.synthetic.randomness import stream
from tbps.synthetic.rendering import Shot, render, sample_shot
from tbps.synthetic.writers import AnnotationWriter, prepare_folder, write_marker, write_parsing_manifests

CHUNK_IMAGES = 48
"""About as many images as a worker makes before it reports."""
MIN_IMAGE_PX = (24, 12)
LABELS = {"mals": attribute_labels, "pa-100k": pa_100k_labels}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldSummary:
    """What was written."""

    benchmark: Benchmark
    root: Path
    num_identities: int
    num_images: int
    num_pairs: int
    num_twins: int
    """Identities that differ in one attribute from the one before."""
    split_identities: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldSpec:
    """Everything that a worker must know."""

    benchmark: Benchmark
    num_identities: int
    seed: int
    image_px: tuple[int, int]
    wrong_detail_rate: float
    twin_rate: float
    parsing: bool
    split_identities: dict[str, int]

    @property
    def split_starts(self) -> dict[str, int]:
        """First identity of each split: training, validation, test lie one after the other."""
        starts, start = {}, 0
        for name, size in self.split_identities.items():
            starts[name], start = start, start + size
        return starts

    def split_of(self, identity: int) -> str:
        """The split of an identity."""
        return max((start, name) for name, start in self.split_starts.items() if start <= identity)[1]

    def crowd(self) -> Crowd:
        """The people."""
        starts = frozenset(self.split_starts.values())
        return Crowd(seed=self.seed, twin_rate=self.twin_rate, split_starts=starts)


@dataclass(kw_only=True)
class Chunk:
    """What a worker reports for some identities; the images are on disk by then."""

    num_identities: int = 0
    num_twins: int = 0
    num_pairs: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    truths: list[dict[str, Any]] = field(default_factory=list)


def write_world(
    root: Path,
    *,
    benchmark: Benchmark,
    num_identities: int,
    seed: int,
    workers: int,
    image_px: tuple[int, int] = (384, 128),
    wrong_detail_rate: float = 0.05,
    twin_rate: float = 0.25,
    parsing: bool = True,
    split_share: tuple[float, float] = (0.10, 0.15),
    progress: Callable[[int, int], None] | None = None,
) -> WorldSummary:
    """Write a data set in `benchmark`'s layout below `root`.

    image_px = (height, width); for "mals" every identity has one image. split_share = (val, test); with no validation
    split (ICFG-PEDES) its share is trained on. Parsing maps lie at `label_maps.map_path`. `progress` is called with
    (identities done, identities in all). ValueError: an argument out of range, or a folder with other files in it.
    """
    if benchmark not in FORMATS:
        raise ValueError(f"benchmark is {benchmark!r}, expected one of {', '.join(FORMATS)}; choose one of them")
    _check(workers, image_px, {"wrong_detail_rate": wrong_detail_rate, "twin_rate": twin_rate})
    spec = WorldSpec(
        benchmark=benchmark,
        num_identities=num_identities,
        seed=seed,
        image_px=image_px,
        wrong_detail_rate=wrong_detail_rate,
        twin_rate=twin_rate,
        parsing=parsing,
        split_identities=split_sizes(benchmark, num_identities, split_share),
    )
    prepare_folder(root)
    write_marker(root, asdict(spec), complete=False)
    if parsing:
        write_parsing_manifests(root)
    summary = _write_rows(root, spec, workers, progress)
    write_marker(root, asdict(spec), complete=True)
    return summary


def _write_rows(root: Path, spec: WorldSpec, workers: int, progress: Callable[[int, int], None] | None) -> WorldSummary:
    """Have all images made, write the rows as they come and count."""
    num_identities = num_images = num_pairs = num_twins = 0
    with AnnotationWriter(root, spec.benchmark) as writer:
        for chunk in _chunks(root, spec, workers):
            for row in chunk.rows:
                writer.add(row)
            for truth in chunk.truths:
                writer.add_person(truth)
            num_identities += chunk.num_identities
            num_images += len(chunk.rows)
            num_pairs += chunk.num_pairs
            num_twins += chunk.num_twins
            if progress is not None:
                progress(num_identities, spec.num_identities)
    return WorldSummary(
        benchmark=spec.benchmark,
        root=root,
        num_identities=num_identities,
        num_images=num_images,
        num_pairs=num_pairs,
        num_twins=num_twins,
        split_identities=spec.split_identities,
    )


def _check(workers: int, image_px: tuple[int, int], rates: dict[str, float]) -> None:
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1; give the number of processes")
    if image_px[0] < MIN_IMAGE_PX[0] or image_px[1] < MIN_IMAGE_PX[1]:
        raise ValueError(f"image_px is {image_px}, expected (height, width) of at least {MIN_IMAGE_PX}; make it larger")
    for name, rate in rates.items():
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"{name} is {rate}, expected a share from 0 to 1; correct it")


def _chunks(root: Path, spec: WorldSpec, workers: int) -> Iterator[Chunk]:
    """All chunks in the order of their identities; a few are in the making at a time."""
    size = max(1, CHUNK_IMAGES // FORMATS[spec.benchmark].images[1])
    starts = range(0, spec.num_identities, size)
    ranges = ((start, min(start + size, spec.num_identities)) for start in starts)
    if workers == 1 or len(starts) == 1:
        for start, stop in ranges:
            yield make_chunk(root, spec, start, stop)
        return
    # Spawned, not forked: the caller may hold threads (torch, a logger), which a fork would copy half-way.
    with worker_pool(min(workers, len(starts)), start="spawn") as pool:
        waiting: deque[Future[Chunk]] = deque()
        for start, stop in ranges:
            waiting.append(pool.submit(make_chunk, root, spec, start, stop))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def make_chunk(root: Path, spec: WorldSpec, start: int, stop: int) -> Chunk:
    """Draw and write the images of the identities from `start` to before `stop`, and tell their rows."""
    chunk, crowd = Chunk(), spec.crowd()
    for identity in range(start, stop):
        person, twin = crowd.person(identity), crowd.is_twin(identity)
        shots = list(_images(root, spec, identity, person, chunk))
        chunk.num_identities += 1
        chunk.num_twins += twin
        if FORMATS[spec.benchmark].people:
            chunk.truths.append(
                {
                    "id": FORMATS[spec.benchmark].first_id + identity,
                    "split": spec.split_of(identity),
                    "twin_of": FORMATS[spec.benchmark].first_id + identity - 1 if twin else None,
                    "differs_in": differing_attributes(crowd.person(identity - 1), person) if twin else [],
                    "attributes": person.attributes(),
                    "images": shots,
                }
            )
    return chunk


def _images(root: Path, spec: WorldSpec, identity: int, person: Person, chunk: Chunk) -> Iterator[dict[str, Any]]:
    """Write each image of one identity, add its row to `chunk` and tell how it was taken."""
    form, split = FORMATS[spec.benchmark], spec.split_of(identity)
    choice = stream(spec.seed, "images", identity)
    num_images = choice.randint(*form.images)
    cameras = choice.sample(range(form.num_cameras), num_images)
    for image, camera in enumerate(cameras):
        random = stream(spec.seed, "image", identity, image)
        path = image_path(
            spec.benchmark,
            identity=identity,
            image=image,
            camera=camera,
            split=split,
            num_identities=spec.num_identities,
            random=random,
        )
        shot = sample_shot(random)
        captions = [_caption(spec, person, shot, identity, image, number) for number in range(form.captions)]
        _write_image(root, spec, person, shot, camera, path, identity, image)
        labels = LABELS[form.attributes](person, shot) if form.attributes else []
        chunk.rows.append(
            annotation_row(spec.benchmark, identity=identity, split=split, path=path, captions=captions, labels=labels)
        )
        chunk.num_pairs += len(captions) or 1  # an image without captions is a pair too
        yield {"path": path, "camera": camera, **asdict(shot)}


def _caption(spec: WorldSpec, person: Person, shot: Shot, identity: int, image: int, number: int) -> str:
    return write_caption(
        person,
        shot,
        stream(spec.seed, "caption", identity, image, number),
        wrong_detail_rate=spec.wrong_detail_rate,
        missing_spaces=FORMATS[spec.benchmark].missing_spaces,
    )


def _write_image(
    root: Path, spec: WorldSpec, person: Person, shot: Shot, camera: int, path: str, identity: int, image: int
) -> None:
    random = stream(spec.seed, "drawing", identity, image)
    rendered = render(
        person,
        shot,
        make_camera(spec.seed, camera),
        spec.image_px,
        random,
    )
    file = root / FORMATS[spec.benchmark].image_folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image_bytes = encode(rendered.picture, file.suffix.removeprefix("."), random.randint(72, 95))
    file.write_bytes(image_bytes)
    for label_set, labels in rendered.maps.items() if spec.parsing else ():
        map_file = root / map_path(path, label_set)
        map_file.parent.mkdir(parents=True, exist_ok=True)
        map_file.write_bytes(encode_map(np.asarray(labels), label_set, image_bytes=image_bytes))

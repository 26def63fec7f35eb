"""Training pairs per CPU-second of one core: the official image pipeline against ours.

Run      OMP_NUM_THREADS=1 python benchmarks/loader.py
Official PIL decode, then twice: torchvision Resize (bicubic), RandomHorizontalFlip, ToTensor, Normalize (RaSa's and MARS's
         code makes two float views of every image)
Ours     decode and resize once to uint8; both views are made on the device. The row "with views on the CPU" counts that
         work too, as if there were no accelerator. The row "whole loader" adds all else that a worker does: captions,
         weak positives, random numbers and stacking.

Pipelines take turns; the table shows medians of process CPU time, so other load on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tbps.config.data import Captioning, Data, Pixels
from tbps.config.methods.mars import Mars
from tbps.data.annotations import Split
from tbps.data.column import StringColumn
from tbps.data.images import decode, resize
from tbps.data.loader import MicroBatch, PairDataset
from tbps.data.pairs import FolderPairs
from tbps.data.views import make_views, normalise_pixels
from tbps.text.captions import CaptionEncoder
from tbps.text.word_pieces import open_word_pieces, train_vocabulary

CAPTION = "a man in a red shirt and blue jeans with a black bag walks along the street and looks at a phone in his hand"
GROUP_PAIRS = 8
PIXELS = Pixels()


def make_sources(folder: Path, num_images: int, source_px: tuple[int, int]) -> None:
    """JPEG files (quality 92) of blurred noise on gradients: about as many bytes as photo crops of that size."""
    rng = np.random.default_rng(0)
    height, width = source_px
    slope = np.linspace(0, 120, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    for number in range(num_images):
        coarse = Image.fromarray(rng.integers(0, 75, (height // 4, width // 4, 3)).astype(np.uint8))
        texture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
        pixels = (slope + texture + rng.integers(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=92)


def official(image_px: tuple[int, int], flip_probability: float) -> Callable[[bytes], tuple[Tensor, Tensor]]:
    """Two float views of an image, each through its own random pipeline."""
    from torchvision import transforms  # with it comes torch's compiler: seconds that only this pipeline needs

    pipeline = transforms.Compose(
        [
            transforms.Resize(image_px, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(flip_probability),
            transforms.ToTensor(),
            transforms.Normalize(PIXELS.mean, PIXELS.std),
        ]
    )

    def views(file_bytes: bytes) -> tuple[Tensor, Tensor]:
        image = Image.open(io.BytesIO(file_bytes)).convert("RGB")
        return pipeline(image), pipeline(image)

    return views


def make_dataset(folder: Path, num_images: int, image_px: tuple[int, int]) -> PairDataset:
    """The training data set of the loader over the sources, two images an identity."""
    numbers = np.arange(num_images)
    split = Split(
        name="train",
        image_path=StringColumn(f"{number}.jpg" for number in numbers),
        image_identity_I=numbers // 2,
        caption=StringColumn([CAPTION] * num_images),
        image_N=numbers,
        caption_number_N=np.zeros_like(numbers),
        attribute_IA=None,
        annotated_range_2=np.array((0, num_images // 2 - 1)),
    )
    vocabulary = folder / "vocab.txt"
    train_vocabulary([CAPTION], size=100, path=vocabulary)
    data = Data(
        benchmark="cuhk-pedes",
        root=str(folder),
        captioning=Captioning(vocabulary=str(vocabulary), max_words=50, max_tokens=50),
        image_px=image_px,
        weak_positive_probability=0.1,
        batch_pairs=GROUP_PAIRS,
        group_pairs=GROUP_PAIRS,
    )
    encoder = CaptionEncoder(open_word_pieces(str(vocabulary)), max_words=50, max_tokens=50, cleaning="space", chunker=None)
    return PairDataset(FolderPairs(folder, "cuhk-pedes", split), encoder, data, Mars().needs((384, 384)), seed=0)


def drain(results: Iterable[object]) -> None:
    """Make all results, keep none."""
    for _ in results:
        pass


def cpu_seconds(work: Callable[[], object]) -> float:
    """Process CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(pipelines: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every pipeline in every round; pipelines take turns."""
    for work in pipelines.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, work in pipelines.items():
            times[name].append(cpu_seconds(work))
    return times


def resized(file_bytes: bytes, image_px: tuple[int, int]) -> Tensor:
    """What a worker makes of a file: (3, height, width) uint8."""
    return resize(decode(file_bytes, key=""), image_px=image_px, interpolation=PIXELS.interpolation)


def compare_pixels(files: Sequence[bytes], image_px: tuple[int, int]) -> tuple[float, float]:
    """Largest difference after normalisation, and share of values that differ at all, views unmirrored."""
    reference = official(image_px, 0.0)
    largest, differing = 0.0, 0.0
    for file_bytes in files:
        ours = normalise_pixels(resized(file_bytes, image_px)[None], PIXELS)[0]
        difference = (ours - reference(file_bytes)[0]).abs()
        largest = max(largest, difference.max().item())
        differing += (difference > 0).float().mean().item() / len(files)
    return largest, differing


def table(times: dict[str, list[float]], num_images: int) -> str:
    """Median pairs per CPU-second and the median of the ratios within each round."""
    baseline = next(iter(times.values()))
    lines = [f"{'pipeline':<58} {'pairs/CPU-s':>12} {'of official':>12}"]
    for name, seconds in times.items():
        ratio = statistics.median(base / own for base, own in zip(baseline, seconds, strict=True))
        lines.append(f"{name:<58} {num_images / statistics.median(seconds):>12.0f} {ratio:>11.2f}x")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source-px", type=int, nargs=2, default=(384, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--image-px", type=int, nargs=2, default=(384, 384), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    image_px = (arguments.image_px[0], arguments.image_px[1])
    num_images = arguments.images // GROUP_PAIRS * GROUP_PAIRS
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "imgs").mkdir()
        make_sources(folder / "imgs", num_images, tuple(arguments.source_px))
        files = [(folder / f"imgs/{number}.jpg").read_bytes() for number in range(num_images)]
        dataset = make_dataset(folder, num_images, image_px)
        batches = [
            MicroBatch(pairs=tuple((0, first + place) for place in range(GROUP_PAIRS)), epoch=0.0)
            for first in range(0, num_images, GROUP_PAIRS)
        ]
        hosts = [dataset[batch] for batch in batches]
        two_views = official(image_px, 0.5)
        cpu = torch.device("cpu")

        # Every result is dropped at once, as in training: memory that is kept costs page faults that are not the pipeline's.
        pipelines: dict[str, Callable[[], object]] = {
            "official: PIL + torchvision, two float views": lambda: drain(two_views(file) for file in files),
            "ours: decode and resize once, uint8": lambda: drain(resized(file, image_px) for file in files),
            "ours, whole loader: + captions, random numbers, stacking": lambda: drain(dataset[batch] for batch in batches),
            "views alone, on the CPU": lambda: drain(
                make_views(host, cpu, pixels=PIXELS, group_pairs=GROUP_PAIRS) for host in hosts
            ),
            "ours, whole loader, with views on the CPU": lambda: drain(
                make_views(dataset[batch], cpu, pixels=PIXELS, group_pairs=GROUP_PAIRS) for batch in batches
            ),
        }
        kilobytes = sum(map(len, files)) / num_images / 1000
        print(f"{num_images} JPEG of {arguments.source_px[0]}x{arguments.source_px[1]} ({kilobytes:.1f} KB each)", end=" ")
        print(f"to {image_px[0]}x{image_px[1]}, one thread, {arguments.rounds} rounds")
        print(table(measure(pipelines, arguments.rounds), num_images))
        largest, differing = compare_pixels(files, image_px)
        print(f"pixels after normalisation: largest difference {largest:g}, {100 * differing:.3f} % of values differ")


if __name__ == "__main__":
    main()

"""Which pairs of caption and image are scored in one call, so that little of it is padding and none takes much memory.

In a call, each image's caption tokens are filled up to those of the image that has most (tbps/nn/packing.py), and some
images are among the best of far more captions than others: so images of like numbers of tokens share a call.
Shapes: M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tbps.nn.packing import Index

PADDED = 1.15
"""Caption tokens of a call with their padding, to those without, at most; beside `free_rows`."""
BASE_WIDTH = 768
"""Width of the states that `SIZES` are for, BERT-base's."""


@dataclass(frozen=True, kw_only=True)
class CallSizes:
    """What a call may hold."""

    images: int
    """Images at most: the keys and values of a layer are held for all of them."""
    free_rows: int
    """So many padding rows are cheaper than one call more."""
    most_tokens: int
    """Caption tokens at most; padded they are at most PADDED times so many and `free_rows`."""


SIZES = {
    "cpu": CallSizes(images=2, free_rows=64, most_tokens=4096),
    "cuda": CallSizes(images=16, free_rows=2048, most_tokens=131_072),
}
"""By device: a CPU's caches are small, a GPU's kernels want much work."""


def call_sizes(device_type: str, *, width: int) -> CallSizes:
    """Sizes for states of this width: narrow ones take less room and work, so a call holds more of them.

    They grow by a power of two, as the sizes of the gallery's batches do, of which blocks of images are to be parts.
    """
    sizes, factor = SIZES[device_type], 1 << max(BASE_WIDTH // width, 1).bit_length() - 1
    return CallSizes(
        images=sizes.images * factor, free_rows=sizes.free_rows * factor, most_tokens=sizes.most_tokens * factor
    )


def share_out(image_M: Index, tokens_M: Index, sizes: CallSizes) -> list[Index]:
    """The pairs of each call, rows of the M pairs: sorted by image, the shortest captions of an image first.

    image_M: the image of each pair;  tokens_M: the tokens of its caption. An image with more than `most_tokens` tokens gets
    calls of its own; a caption is never cut.
    """
    order_M = np.lexsort((tokens_M, image_M))
    of_images = np.split(order_M, np.flatnonzero(np.diff(image_M[order_M])) + 1)
    totals = [int(tokens_M[pairs].sum()) for pairs in of_images]
    calls: list[Index] = []
    together: list[list[int]] = []
    largest = total = 0
    for image in sorted(range(len(of_images)), key=lambda image: -totals[image]):
        own = totals[image]
        if own > sizes.most_tokens:
            calls += _cut(of_images[image], tokens_M, sizes.most_tokens)
            continue
        padded = (len(together[-1]) + 1) * largest if together else 0
        if not together or total + own > sizes.most_tokens or padded > PADDED * (total + own) + sizes.free_rows:
            together.append([])
            largest, total = own, 0
        together[-1].append(image)
        total += own
    return calls + [np.concatenate([of_images[image] for image in sorted(images)]) for images in together]


def _cut(pairs: Index, tokens_M: Index, most_tokens: int) -> list[Index]:
    """One image's pairs in parts of about the same number of tokens, none above `most_tokens` by more than a caption."""
    ends = np.cumsum(tokens_M[pairs])
    parts = -(-int(ends[-1]) // most_tokens)
    edges = np.searchsorted(ends, np.arange(1, parts) * ends[-1] / parts)
    return [part for part in np.split(pairs, edges) if len(part)]

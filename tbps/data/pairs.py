"""Every (image, caption) of a split is a pair: where pairs come from, and the queries and gallery of an evaluation.

Shapes: N pairs, G gallery images, Q queries (every pair's caption: Q = N).
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import Benchmark, Data, LabelSetName
from tbps.data.annotation_cache import mapped_annotations
from tbps.data.annotations import Split
from tbps.data.identity_index import IdentityIndex
from tbps.data.image_files import ImageFiles
from tbps.data.label_maps import ADVICE, map_path
from tbps.data.parsing_cache import check_cache
from tbps.data.remote import PATIENCE_S, is_remote


class PairSource(Protocol):
    """Pairs by number, from a folder or from shards: the same numbers, keys and bytes from both."""

    annotated_range: tuple[int, int] | None
    """Smallest and largest id as annotated; None where that is not known, or ids are no numbers."""

    def __len__(self) -> int:
        """N."""

    @property
    def identity_N(self) -> NDArray[np.int64]:
        """(N,) dense identities from 0. All of them, in memory: training asks for `identity` of one pair."""

    @property
    def image_N(self) -> NDArray[np.int64]:
        """(N,) which image of the split the pair shows, counted 0, 1, ... by first appearance. All, as `identity_N`."""

    @property
    def num_identities(self) -> int:
        """How many identities the pairs show: 0 to this number, which is no longer one."""

    @property
    def num_images(self) -> int:
        """How many images the pairs show."""

    def identity(self, index: int) -> int:
        """The pair's place in `identity_N`, without making that whole array."""

    def image(self, index: int) -> int:
        """The pair's place in `image_N`, without making that whole array."""

    def key(self, index: int) -> str:
        """`<image path>#<caption number>`."""

    def caption(self, index: int) -> str:
        """The caption as annotated."""

    def captions_digest(self) -> str:
        """Hexadecimal; differs where a caption does."""

    def image_bytes(self, index: int) -> bytes:
        """The image file's bytes. ValueError names the pair if they cannot be had."""

    def siblings(self, index: int) -> NDArray[np.int64]:
        """All pairs of the same identity, `index` among them, ascending."""

    def parsing_bytes(self, index: int, label_set: LabelSetName) -> bytes:
        """The file of the image's parsing map of that set (see `tbps.data.label_maps`). ValueError: there is none."""

    def check_parsing(self, label_set: LabelSetName) -> None:
        """ValueError: an image has no parsing map of that set, or one of a few that are looked at cannot be used."""

    def attributes(self, index: int) -> NDArray[np.int8]:
        """(A,) the image's attributes in {0, 1, -1}. ValueError: the data set has none."""


class FolderPairs:
    """Pairs of a data set as published: an annotation file and image files."""

    def __init__(self, root: Path, benchmark: Benchmark, split: Split, *, limit_pairs: int = 0) -> None:
        """`limit_pairs` > 0 keeps only the first so many pairs."""
        self._root, self._benchmark = root, benchmark
        self._files = ImageFiles(root, benchmark)
        self._split = split
        self._num_pairs = min(limit_pairs, len(split.caption)) if limit_pairs else len(split.caption)
        self.identity_N = split.identity_N[: self._num_pairs]
        self.image_N = split.image_N[: self._num_pairs]
        self._identities = IdentityIndex(self.identity_N)
        low, high = split.annotated_range_2.tolist()
        self.annotated_range = (low, high) if low <= high and self._num_pairs == len(split.caption) else None

    def __len__(self) -> int:
        return self._num_pairs

    @property
    def num_identities(self) -> int:
        """How many the pairs show."""
        return int(self.identity_N.max()) + 1 if self._num_pairs else 0

    @property
    def num_images(self) -> int:
        """How many the pairs show."""
        return int(self.image_N.max()) + 1 if self._num_pairs else 0

    def identity(self, index: int) -> int:
        """Who is shown."""
        return int(self.identity_N[index])

    def image(self, index: int) -> int:
        """Which image is shown."""
        return int(self.image_N[index])

    def key(self, index: int) -> str:
        """`<image path>#<caption number>`."""
        return self._split.pair_key(index)

    def caption(self, index: int) -> str:
        """The caption as annotated."""
        return self._split.caption[index]

    def captions_digest(self) -> str:
        """Of all captions in order."""
        digest = hashlib.sha256()
        for caption in itertools.islice(self._split.caption, self._num_pairs):
            digest.update(caption.encode(errors="surrogatepass") + b"\0")
        return digest.hexdigest()

    def image_bytes(self, index: int) -> bytes:
        """The image file's bytes."""
        try:
            return self._files.read(self._split.image_path[int(self.image_N[index])])
        except ValueError as error:
            raise ValueError(
                f'pair {self.key(index)}: {error}; run "tbps data doctor --all" to list every such image'
            ) from error

    def siblings(self, index: int) -> NDArray[np.int64]:
        """All pairs of the same identity, ascending."""
        return self._identities.pairs(int(self.identity_N[index]))

    def parsing_bytes(self, index: int, label_set: LabelSetName) -> bytes:
        """The file of the image's parsing map."""
        path = self._root / map_path(self._split.image_path[int(self.image_N[index])], label_set)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ValueError(f"{path} is not there, expected a parsing map of every image; {ADVICE}") from error

    def check_parsing(self, label_set: LabelSetName) -> None:
        """That every map is there by listing their folders, and what they are by a sample spread over the images."""
        first_I = np.unique(self.image_N, return_index=True)[1]
        paths = [self._split.image_path[int(self.image_N[pair])] for pair in first_I]
        check_cache(self._root, self._benchmark, label_set, paths)

    def attributes(self, index: int) -> NDArray[np.int8]:
        """(A,) the image's attributes."""
        if self._split.attribute_IA is None:
            raise ValueError(f"{self._benchmark} at {self._root} annotates no attributes; MALS, for one, has them")
        return self._split.attribute_IA[int(self.image_N[index])]


class EvaluationSet:
    """One split seen as a retrieval task: each caption is a query, each image is in the gallery once.

    Example: 2 images with 2 captions each give G = 2, Q = 4 and query_image_Q = [0, 0, 1, 1].
    """

    def __init__(self, source: PairSource) -> None:
        """ValueError: the data tell attributes alone."""
        if len(source) and not source.caption(0):
            raise ValueError("the data have no captions to search with; evaluate on others: --on and --root name them")
        self.source = source
        self.query_identity_Q = source.identity_N
        """(Q,) identity of each caption."""
        self.query_image_Q = source.image_N
        """(Q,) row of the gallery that the caption was written for."""
        image_G, self.gallery_pair_G = np.unique(source.image_N, return_index=True)
        """(G,) the first pair of each image."""
        assert np.array_equal(image_G, np.arange(len(image_G))), "images are numbered by first appearance"
        self.gallery_identity_G = source.identity_N[self.gallery_pair_G]
        """(G,) identity of each image."""

    @property
    def num_queries(self) -> int:
        """Q."""
        return len(self.query_identity_Q)

    @property
    def num_gallery(self) -> int:
        """G."""
        return len(self.gallery_identity_G)

    def query_caption(self, query: int) -> str:
        """The caption of query `query`."""
        return self.source.caption(query)

    def query_key(self, query: int) -> str:
        """The pair key of query `query`."""
        return self.source.key(query)

    def gallery_key(self, image: int) -> str:
        """The path of gallery image `image`, as in the annotation file."""
        return self.source.key(int(self.gallery_pair_G[image])).rsplit("#", 1)[0]

    def gallery_bytes(self, image: int) -> bytes:
        """The file of gallery image `image`."""
        return self.source.image_bytes(int(self.gallery_pair_G[image]))


def open_pairs(data: Data, split: str = "train", *, patience_s: float = PATIENCE_S) -> PairSource:
    """The pairs of `split`, from shards where `data.root` is a URL or holds a shard index, else from the published files.

    `data.limit_pairs` applies to the training split only. patience_s: seconds in which a server may send nothing.
    ValueError: wrong root or unknown split, or nothing came from a server.
    """
    from tbps.data.shard_index import INDEX_NAME
    from tbps.data.shards import ShardPairs

    if not data.root:
        raise ValueError(f"data.root is empty, expected the folder of {data.benchmark} or its shards; set --data.root")
    limit = data.limit_pairs if split == "train" else 0
    root = Path(data.root).expanduser()
    if is_remote(data.root):
        cache = Path(data.cache).expanduser()
        return ShardPairs(data.root, split, cache=cache, cache_mb=data.cache_mb, limit_pairs=limit, patience_s=patience_s)
    if (root / INDEX_NAME).is_file():
        return ShardPairs(str(root), split, cache=Path(data.cache).expanduser(), limit_pairs=limit)
    annotations = mapped_annotations(root, data.benchmark, cache=Path(data.cache).expanduser().parent / "annotations")
    return FolderPairs(root, data.benchmark, annotations.split(split), limit_pairs=limit)

"""Where requests wait for their answers: one thread encodes and searches, one reads pictures' files, and neither
stops the others.

Encoding uses all cores already, so two searches at once would only slow each other down; they are answered in the order in
which they came.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from tbps.search.index import MANIFEST, Index, Picture, read_manifest
from tbps.search.pictures import Pictures
from tbps.search.row_pixels import pixels_of
from tbps.search.searcher import Searcher
from tbps.serving.asking import MOST_CHARACTERS, Asked, answer
from tbps.serving.given import frame_with_box, picture_as_file, thumbnail
from tbps.serving.sent_picture import sent_bytes, text_of
from tbps.serving.why import explain

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

MOST_WAITING = 64
"""Searches that may wait; whoever comes then is told to come again."""
MOST_SENDING = 4
"""Pictures that may be on their way, or wait to be decoded, at a time: each is held in memory."""
MOST_CAMERAS = 500
"""That are offered for choice."""


class BusyError(Exception):
    """Too many are waiting."""


class Desk:
    """An index that is searched, and followed: what `tbps index` commits meanwhile is found from the next search on."""

    def __init__(self, searcher: Searcher, *, blurs: bool = False) -> None:
        """blurs: heads in all pictures that are given out, by where they are (`blur.py`). ValueError: that is not known."""
        if blurs and searcher.index.manifest.video_every_s and not searcher.index.manifest.detector:
            raise ValueError(
                f"--blur-faces blurs the upper part of each person, and {searcher.index.folder} holds whole frames of"
                " videos, expected people cut out of them; index them with --detect"
            )
        self._searcher, self._blurs = searcher, blurs
        self._pictures: Pictures | None = None
        self._seen = _state(searcher.index.folder)
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._busy = threading.Lock()
        self._waiting = 0
        self._sending = 0

    @property
    def index(self) -> Index:
        """As it was at the last search."""
        return self._searcher.index

    def close(self) -> None:
        """Let nobody wait any more; what is being computed ends by itself."""
        for executor in (self._encoding, self._files):
            executor.shutdown(wait=False, cancel_futures=True)

    async def search(self, asked: Asked) -> dict[str, Any]:
        """The answer as JSON holds it. ValueError: the query cannot be read; BusyError."""

        def find() -> dict[str, Any]:
            found = self.current().search(asked.query, top=asked.top, filters=asked.filters, rerank=asked.rerank)
            return answer(found)

        return await self.in_turn(find)

    async def read_sent(self, request: Request) -> dict[str, Any]:
        """A picture that is sent to search with, as it stands in addresses then. ValueError: it is none; BusyError."""
        if self._sending >= MOST_SENDING:
            raise BusyError
        self._sending += 1
        try:
            content = await sent_bytes(request)
            look = self._searcher.picture_pixels
            pixels_CHW = await asyncio.get_running_loop().run_in_executor(self._files, look, content)
        finally:
            self._sending -= 1
        searcher = self._searcher
        feature_E = await self.in_turn(lambda: searcher.embed_picture(pixels_CHW))
        return {"picture": text_of(feature_E, searcher.model.weights_sha256)}

    async def about(self) -> dict[str, Any]:
        """What a page needs to know of the index. BusyError."""

        def look() -> dict[str, Any]:
            searcher = self.current()
            index = searcher.index
            cameras = {index.camera(path) for row, path in enumerate(index.paths()) if index.live_N[row]}
            return {
                "name": index.folder.resolve().name,
                "pictures": index.num_pictures,
                "cameras": sorted(cameras - {""})[:MOST_CAMERAS],
                "reranks": searcher.model.matcher is not None,
                "blurs": self._blurs,
            }

        return await self.in_turn(look)

    async def why(self, row: int, sentence: str) -> dict[str, Any]:
        """What each word of a sentence does for a listed picture. ValueError: its file or the sentence cannot be used."""
        if len(sentence) > MOST_CHARACTERS:
            raise ValueError(f"the sentence has more than {MOST_CHARACTERS:,} characters; write a shorter one")
        try:
            pixels_HWC = await self._of_file(row, pixels_of)
        except ValueError as error:
            raise ValueError(f"the picture cannot be explained: {error}") from error
        return await self.in_turn(lambda: explain(self._searcher.model, pixels_HWC, sentence).as_json())

    @property
    def is_computing(self) -> bool:
        """Whether a search runs."""
        return self._busy.locked()

    async def in_turn(self, function: Callable[[], Answer]) -> Answer:
        """Call it in the thread that encodes, after those who came before. BusyError: too many wait."""
        if self._waiting >= MOST_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._encoding, self._alone, function)
        finally:
            self._waiting -= 1

    def _alone(self, function: Callable[[], Answer]) -> Answer:
        with self._busy:
            return function()

    def current(self) -> Searcher:
        """On the index as it is now; in the thread that encodes. An index that cannot be read leaves the one before."""
        index = self._searcher.index
        try:
            seen = _state(index.folder)
            if seen != self._seen:
                self._seen = seen
                manifest = read_manifest(index.folder)
                begun = index.manifest.segments
                grows = manifest.segments[: len(begun)] == begun
                newer = index.grown(manifest) if grows else Index(index.folder, manifest)
                self._searcher = Searcher(newer, self._searcher.model)
        except (ValueError, OSError) as error:
            logger.warning("the index cannot be read again, and is searched as it was: %s", error)
        return self._searcher

    def is_live(self, row: int) -> bool:
        """Whether the index lists a picture of this number."""
        index = self._searcher.index
        return 0 <= row < index.num_rows and bool(index.live_N[row])

    async def thumbnail(self, row: int) -> bytes:
        """JPEG of a listed picture. OSError: the index's file is gone."""
        return await asyncio.to_thread(thumbnail, self._searcher.index, row, blurs=self._blurs)

    async def picture(self, row: int) -> tuple[bytes, str]:
        """A listed picture as a file, and its media type. ValueError: it is not what was indexed, or not there."""
        return await self._of_file(row, partial(picture_as_file, blurs=self._blurs))

    async def frame(self, row: int) -> bytes:
        """JPEG of the frame in which a listed picture's person was found, with the box. ValueError as of `picture`."""
        return await self._of_file(row, partial(frame_with_box, blurs=self._blurs))

    async def _of_file(self, row: int, function: Callable[[Pictures, Picture], Answer]) -> Answer:
        """What becomes of a row's file, in the thread that reads them."""

        def call() -> Answer:
            index = self._searcher.index
            if self._pictures is None:
                self._pictures = index.open_pictures()
            return function(self._pictures, index.picture(row))

        return await asyncio.get_running_loop().run_in_executor(self._files, call)


def _state(folder: Path) -> tuple[int, int]:
    """Changes whenever an index is committed, which renames a file."""
    status = os.stat(folder / MANIFEST)
    return status.st_ino, status.st_mtime_ns

"""Small real videos, written by PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_video(
    path: Path,
    frames: list[NDArray[np.uint8]],
    *,
    rate: int = 10,
    codec: str = "libx264",
    turned: int = 0,
    created: str = "",
) -> None:
    """With a key frame each second."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as video:
        if created:
            video.metadata["creation_time"] = created
        stream = video.add_stream(codec, rate=rate, options={"g": str(rate), "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for pixels_HWC in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")))
        video.mux(stream.encode())

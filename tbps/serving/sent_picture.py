"""A picture that somebody sends to search with: its file is read once and forgotten, what is kept is its feature as a text.

The text stands in the page's address like everything else that is asked, so the server remembers nothing, and a permanent
link shows the same again: 4 bytes of the weights' digest, then E float16 numbers, in base64's letters for addresses.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib

import numpy as np
from starlette.requests import ClientDisconnect, Request
from torch import Tensor

MOST_BYTES = 16 << 20
"""Of a picture's file."""
_WITHIN_S = 60.0
"""A body that takes longer is not waited for."""
_DIGEST_BYTES = 4
_LONGEST = 1 << 16
"""Characters: no feature is so long."""
_ROUNDED = 0.01
"""How far the length of a feature in float16 may be from 1."""


class TooLargeError(ValueError):
    """A file with more bytes than `MOST_BYTES`."""


async def sent_bytes(request: Request) -> bytes:
    """The body of a request, at most `MOST_BYTES` of it held. ValueError: it is empty, too large or not whole."""
    content = bytearray()
    try:
        async with asyncio.timeout(_WITHIN_S):
            async for part in request.stream():
                content += part
                if len(content) > MOST_BYTES:
                    most = f"{MOST_BYTES >> 20} MiB"
                    raise TooLargeError(
                        f"the picture has more than {most}, expected a smaller one; save it with fewer pixels"
                    )
    except (ClientDisconnect, TimeoutError) as error:
        raise ValueError("the picture did not come whole; send it again") from error
    if not content:
        raise ValueError("the picture is empty, expected a file such as JPEG or PNG; choose another one")
    return bytes(content)


def text_of(feature_E: Tensor, weights_sha256: str) -> str:
    """A unit feature as it stands in an address."""
    content = _digest(weights_sha256) + feature_E.numpy().astype("<f2").tobytes()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def feature_of(text: str, *, weights_sha256: str, width: int) -> bytes:
    """The E = `width` float16 numbers of such a text. ValueError: it is none, or of other weights; the index is empty."""
    if not width:
        raise ValueError("the index holds no picture yet, so that none is like yours; fill it by tbps index")
    try:
        content = base64.b64decode(text[:_LONGEST] + "=" * (-len(text[:_LONGEST]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        content = b""
    digest, feature = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if digest and digest != _digest(weights_sha256):
        raise ValueError("the picture of this link was read by other weights than the index's; send it again")
    numbers = np.frombuffer(feature, dtype="<f2").astype(np.float64) if len(feature) == 2 * width else np.zeros(0)
    if not abs(float(np.linalg.norm(numbers)) - 1) < _ROUNDED:  # NaN is not near either
        raise ValueError(f"picture is {text[:40]!r}, expected what the server answers to a picture; send it again")
    return feature


def _digest(weights_sha256: str) -> bytes:
    return hashlib.sha256(weights_sha256.encode()).digest()[:_DIGEST_BYTES]

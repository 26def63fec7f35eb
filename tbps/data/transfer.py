"""One attempt at copying a URL to a file, over http(s) or with the AWS command line, that ends when nothing comes."""

from __future__ import annotations

import email.utils
import logging
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

IDLE_S = 30.0
"""Seconds after which an attempt that brought less than `SLOWEST_BYTES` has failed."""
SLOWEST_BYTES = 1 << 10
PIECE_BYTES = 1 << 20
CONNECT_S = 10.0
WORD_EVERY_S = 30.0
"""Seconds between words on a file that comes slowly."""
_TRY_LATER = (408, 425, 429)
"""Answers of the 4xx kind that mean: not now."""


class Failed(Exception):
    """The attempt failed; another may not. `retry_after_s`: how long the server asks to wait."""

    def __init__(self, problem: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The answer will stay the same: no such file, no permission."""


def copy_http(url: str, target: Path, *, idle_s: float, num_bytes: int | None, name: str) -> None:
    """Copy `url` to `target`, from where a former attempt ended. Proxies are those of the environment.

    num_bytes: that the file should have, None = not known; no more is taken of a longer one. name: of the URL, for the log.
    Failed: no answer, a server error, or no byte for `idle_s` seconds. Refused: an answer of the 4xx kind, no such scheme.
    """
    import requests
    from requests.exceptions import InvalidSchema, InvalidURL, TooManyRedirects
    from urllib3.exceptions import HTTPError

    start = target.stat().st_size if target.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(min(CONNECT_S, idle_s), idle_s)) as response:
            if response.status_code == 416:  # what is there is no beginning of the file
                target.unlink()
                raise Failed("the file is shorter than what came before")
            _check_status(response.status_code, response.reason, response.headers.get("Retry-After", ""))
            if response.status_code != 206 or not _goes_on_at(start, response.headers.get("Content-Range", "")):
                start = 0
            with target.open("ab" if start else "wb") as file:
                pieces = iter(lambda: response.raw.read1(PIECE_BYTES), b"")
                _copy(pieces, file, idle_s=idle_s, num_bytes=num_bytes, name=name)
            promised = response.headers.get("Content-Length", "")
            came, size = target.stat().st_size - start, target.stat().st_size
            if promised.isdigit() and came < int(promised) and (num_bytes is None or size <= num_bytes):
                raise Failed(f"the connection ended after {came} of {promised} bytes")
            if not promised.isdigit() and num_bytes is not None and size < num_bytes:
                raise Failed(f"the connection ended after {size} of {num_bytes} bytes")
    except (InvalidSchema, InvalidURL, TooManyRedirects) as error:
        raise Refused(f"cannot be asked for ({error})") from error
    except (OSError, HTTPError) as error:  # every exception of requests is an OSError
        raise Failed(_reason(error, idle_s)) from error


def _goes_on_at(start: int, content_range: str) -> bool:
    """Whether a part of a file begins where it was asked for; a server that does not say is believed."""
    told = re.match(r"bytes (\d+)-", content_range)
    return told is None or int(told[1]) == start


def _check_status(status: int, reason: str, retry_after: str) -> None:
    if status in (200, 206):
        return
    answer = f"the server answers {status} {reason}".rstrip()
    if status >= 500 or status in _TRY_LATER:
        wait_s = _seconds(retry_after)
        raise Failed(f"{answer}, retry after {wait_s:.0f} s" if wait_s else answer, retry_after_s=wait_s)
    raise Refused(answer)


def _seconds(retry_after: str) -> float:
    """The header as seconds from now: it is a number, or a date."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _reason(error: BaseException, idle_s: float) -> str:
    """What happened, without the names of classes and pools that the libraries wrap it in."""
    chain: list[BaseException] = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None and below not in chain:
        chain.append(below)
    if any(isinstance(one, TimeoutError) or "timed out" in str(one).lower() for one in chain):
        return f"nothing came for {idle_s:g} s"
    proxy = "the proxy " if any(type(one).__name__ == "ProxyError" for one in chain) else ""
    deepest = next((one for one in reversed(chain) if isinstance(one, OSError) and one.strerror), None)
    return f"{proxy}cannot be reached or broke off ({deepest.strerror if deepest is not None else chain[-1]})"


def copy_s3(url: str, target: Path, *, idle_s: float, num_bytes: int | None, name: str) -> None:
    """Copy `url` to `target` with `aws s3 cp`, from its beginning. Arguments and exceptions as of `copy_http`."""
    with tempfile.TemporaryFile() as errors, target.open("wb") as file:
        command = ["aws", "s3", "cp", "--only-show-errors", url, "-"]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError:
            raise Refused("needs the program aws, which is not installed (pip install awscli)") from None
        with process:
            assert process.stdout is not None
            try:
                whole = _copy(_pieces(process.stdout, idle_s), file, idle_s=idle_s, num_bytes=num_bytes, name=name)
            except BaseException:
                process.kill()
                raise
            if not whole:
                process.kill()
        if whole and process.returncode:
            errors.seek(0)
            said = " ".join(errors.read().decode(errors="replace").split())[-300:] or f"status {process.returncode}"
            # An answer of the 4xx kind, or nothing to sign with.
            final = re.search(r"\(4\d\d\)|\((AccessDenied|NoSuch\w+|Invalid\w+)\)|credentials", said)
            raise (Refused if final else Failed)(f"aws says: {said}")


def _pieces(stream: IO[bytes], idle_s: float) -> Iterator[bytes]:
    while select.select([stream], [], [], idle_s)[0]:
        piece = os.read(stream.fileno(), PIECE_BYTES)
        if not piece:
            return
        yield piece
    raise Failed(f"nothing came for {idle_s:g} s")


def _copy(pieces: Iterator[bytes], file: IO[bytes], *, idle_s: float, num_bytes: int | None, name: str) -> bool:
    """False where it ended because `file` has more than `num_bytes` bytes.

    Failed where less than `SLOWEST_BYTES` came in `idle_s` seconds: a byte now and then is no progress. ValueError: the file
    cannot be written.
    """
    began = since = told = time.monotonic()
    came = total = 0
    for piece in pieces:
        try:
            file.write(piece)
            file.flush()
        except OSError as error:
            advice = "make room, or set --data.cache to another disk"
            raise ValueError(f"{file.name} cannot be written ({error.strerror}); {advice}") from error
        came, total, now = came + len(piece), total + len(piece), time.monotonic()
        if num_bytes is not None and file.tell() > num_bytes:
            return False
        if now - since > idle_s:
            if came < SLOWEST_BYTES:
                raise Failed(f"only {came} bytes came in {idle_s:g} s")
            since, came = now, 0
        if now - told > WORD_EVERY_S:
            of = f" of {num_bytes / 1e6:.1f}" if num_bytes is not None else ""
            logger.info("fetching %s: %.1f%s MB so far, %.0f kB/s", name, file.tell() / 1e6, of, total / (now - began) / 1e3)
            told = now
    return True

"""A /dev/shm without room for batches: a sentence, whatever the moment. In a mount namespace of a child process, as root."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from pathlib import Path

import pytest
from tiny_folder import NEEDS, make_data, make_encoder, write_folder

from tbps.data.loader import make_loader
from tbps.data.pairs import open_pairs

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000


def _load(folder: Path, size: str, queue: multiprocessing.Queue) -> None:
    """Load some batches where /dev/shm has `size`; put what happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = (
        lambda: libc.unshare(_CLONE_NEWNS),
        lambda: libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None),
        lambda: libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode()),
    )
    for step in steps:
        if step():
            queue.put(f"skip: {os.strerror(ctypes.get_errno())}")
            return
    data = make_data(folder, workers=2, image_px=(256, 128))
    loader = make_loader(open_pairs(data), make_encoder(folder), data, NEEDS, seed=0, start_step=0, num_steps=20)
    try:
        queue.put(f"{sum(1 for _ in loader)} batches")
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("size", ["4k", "256k", "3m", "100m"])
def test_a_small_shm_ends_in_a_sentence(size: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_load, args=(tmp_path, size, queue))
    process.start()
    try:
        told = queue.get(timeout=40)
    finally:
        process.kill()
        process.join()
    if told.startswith("skip: "):
        pytest.skip(f"no mount namespace here: {told}")
    if size == "100m":
        assert told == "20 batches"
        return
    assert told.startswith("ValueError: /dev/shm, through which loader workers hand over batches, is full (")
    assert "Docker: --shm-size" in told and "or lower --data.workers or --data.micro-batch-pairs" in told
    assert "Traceback" not in capfd.readouterr().err

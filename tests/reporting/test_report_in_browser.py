"""The report opened in a real browser: every picture is decoded, nothing is fetched, no caption runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from filled_run import fill_run
from PIL import Image

from tbps.reporting.report import write_report

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_it_is_drawn_and_no_caption_runs(tmp_path: Path) -> None:
    fill_run(tmp_path / "run", hostile=True)
    report = write_report(tmp_path / "run")
    page = _browse(tmp_path, "--dump-dom", report)
    assert "Retrieval during training" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"<script|onerror=\w", re.sub(r"&lt;.*?&gt;", "", page))
    picture = tmp_path / "page.png"
    _browse(tmp_path, f"--screenshot={picture}", report)
    with Image.open(picture) as image:
        # Green and red frames, chart lines and photographs: an empty or broken page has a handful of colours.
        assert len(set(image.convert("RGB").resize((300, 900)).getdata())) > 1000


def _browse(folder: Path, what: str, report: Path) -> str:
    assert CHROMIUM is not None
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet, "--window-size=1200,3600"]
    command += [f"--user-data-dir={folder / 'profile'}", what, report.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

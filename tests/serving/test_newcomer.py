"""What somebody new waits for: from `tbps index` on a thousand pictures to the first answer in the browser."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from small_world import REPOSITORY, World, call_anew, run_recipe

from recipes.demo import IMAGE_PX, SHAPE
from tbps.synthetic.world import write_world

PICTURES = 1000
MOST_S = 60.0
TBPS = (sys.executable, "-m", "tbps.command")
SHOWN = "[...document.querySelectorAll('#results img')].filter((image) => image.complete && image.naturalWidth).length"


@pytest.fixture(scope="module")
def run_folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model after a step: it takes as long as the trained one."""
    runs = tmp_path_factory.mktemp("runs")
    words = world.overrides(runs, recipe="mars", max_steps=1)
    unscored = ("--evaluation.test", "False", "--evaluation.every-epochs", "0")
    assert run_recipe("mars", "tiny", *words, *SHAPE, *unscored) == 0
    return runs / "mars/tiny"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_a_thousand_pictures_are_searched_in_the_browser_within_a_minute(run_folder: Path, tmp_path: Path) -> None:
    image_px = (int(IMAGE_PX[0]), int(IMAGE_PX[1]))
    photos, index = tmp_path / "photos", tmp_path / "photos.index"
    write_world(photos, benchmark="mals", num_identities=PICTURES, seed=3, workers=1, image_px=image_px, parsing=False)
    with Browser(tmp_path / "profile") as browser:
        began = time.monotonic()
        done = call_anew(*TBPS, "index", str(photos), str(index), "--run", str(run_folder))
        assert done.returncode == 0 and f"{PICTURES:,} encoded by" in done.stdout, done.stderr
        indexed = time.monotonic()
        with subprocess.Popen([*TBPS, "serve", str(index), "--port", "0"], cwd=REPOSITORY, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                said = re.search(r"1,000 pictures at (http://\S+)", server.stdout.readline().decode())
                assert said is not None
                served = time.monotonic()
                browser.open(said[1])
                browser.type("a woman in a red coat")
                browser.until(f"{SHOWN} >= 8")  # those below the window are loaded when they are looked at
                answered = time.monotonic()
            finally:
                server.kill()
    parts = {"index": indexed - began, "serve": served - indexed, "answer": answered - served}
    print(f"{', '.join(f'{name} {seconds:.1f} s' for name, seconds in parts.items())}: {answered - began:.1f} s in all")
    assert answered - began < MOST_S


def test_nobody_who_searches_waits_for_a_compiler() -> None:
    """torch's takes longer to import than all of ours; only `loop.compile` needs it."""
    modules = "tbps.finished, tbps.search.building, tbps.search.searcher, tbps.serving.app"
    done = call_anew(sys.executable, "-c", f"import sys, {modules}; print({{'torch._dynamo', 'sympy'}} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stdout + done.stderr

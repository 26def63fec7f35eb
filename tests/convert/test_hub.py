"""The Hugging Face hub, by a server of our own that speaks its endpoints: push, then use what was pushed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from exportable_runs import untrained_run, write_pictures
from local_hub import COMMIT, NAME, local_hub

import tbps
from tbps.command import main
from tbps.convert.hub import push
from tbps.search.index import read_manifest
from tbps.synthetic.world import write_world


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    assert main(["export", str(untrained_run("mars", folder)), str(folder / "model")]) == 0
    return folder / "model"


PUSH = """
import os, sys
from tbps.command import main
from tbps.convert.hub import find_model
for token in ("", "hf_wrong", "hf_right"):
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    print(main(["export", sys.argv[1], "--push", sys.argv[2]]), flush=True)
print(find_model("hf:" + sys.argv[2] + "@main"), flush=True)
try:
    find_model("hf:someone/absent")
except ValueError as error:
    print(error, flush=True)
"""
USE = """
import sys, tbps
from pathlib import Path
from tbps.command import main
from tbps.config.start import Start
from tbps.finished import open_finished
from tbps.runs.run_folder import RunFolder
from tbps.training.start import start
name, pictures, index, data = sys.argv[1:]
print(tbps.load(name).embed_text(["a man", "a woman in red"]).tolist())
assert main(["index", pictures, index, "--run", name, "--workers", "0"]) == 0
assert main(["search", index, "a woman in red"]) == 0
assert main(["evaluate", name, "--root", data]) == 0
assert main(["search", index, "a man", "--run", "hf:someone/absent"]) == 2
start(open_finished(name).method(), RunFolder(Path("none")), Start(weights=name))
sys.exit(main(["serve", index, "--port", "0"]))
"""
"""Without a network, from what the other has fetched."""


def _python(script: str, *words: str, home: Path, endpoint: str = "") -> subprocess.Popen[str]:
    """A process of its own: huggingface_hub reads its environment once. Without an endpoint it is offline."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    where = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"} if endpoint else {"HF_HUB_OFFLINE": "1"}
    told = {"HF_HOME": str(home), **where}
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env={**kept, **told, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_what_is_pushed_is_fetched_and_used_by_its_name(exported: Path, tmp_path: Path) -> None:
    (exported / "private.txt").write_text("not part of the export")
    with local_hub() as hub, _python(PUSH, str(exported), NAME, home=tmp_path, endpoint=hub.address) as process:
        said, errors = process.communicate(timeout=300)
    (exported / "private.txt").unlink()
    lines = said.splitlines()
    assert lines[:4] == ["2", "2", f"pushed to {hub.address}/{NAME}", "0"], errors
    nobody, wrong = [line for line in errors.splitlines() if line.startswith("tbps: ")]
    assert nobody.startswith(
        "tbps: nobody is logged in to the Hugging Face hub, expected an account that may write there; run"
    )
    assert wrong.startswith("tbps: the Hugging Face hub does not say who is logged in (")
    assert "Traceback" not in errors and "HTTP Request" not in errors
    assert len(hub.created) == 1 and (hub.created[0].get("private") is True or "private" in hub.created[0].values())
    files = {file.name: file.read_bytes() for file in exported.iterdir()}
    assert hub.files == files and [len(content) for content in hub.large.values()] == [len(files["model.safetensors"])]
    snapshot = Path(lines[4])
    assert snapshot == tmp_path / f"hub/models--someone--mars-tiny/snapshots/{COMMIT}"
    assert {file.name: file.read_bytes() for file in snapshot.iterdir()} == files
    assert lines[5].startswith("hf:someone/absent cannot be fetched (404 ") and len(lines) == 6

    write_pictures(tmp_path / "pictures", number=5)
    world = {"num_identities": 24, "seed": 5, "workers": 1, "image_px": (64, 32), "parsing": False}
    write_world(tmp_path / "data", benchmark="cuhk-pedes", **world)  # type: ignore[arg-type]
    places = [str(tmp_path / name) for name in ("pictures", "index", "data")]
    with _python(USE, f"hf:{NAME}", *places, home=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        said = _until(process.stdout, " pictures at http://")
        process.terminate()
        errors = process.stderr.read()
        assert process.wait() == 128 + signal.SIGTERM, errors
    here = tbps.load(exported).embed_text(["a man", "a woman in red"])
    assert np.abs(np.array(json.loads(said.splitlines()[0])) - here).max() < 1e-6
    assert f"5 encoded by hf:{NAME} in " in said and "5 of 5 pictures compared" in said
    assert read_manifest(tmp_path / "index").source == f"hf:{NAME}"
    assert "of an exported model: nothing is written" in said
    assert "tbps: hf:someone/absent is not in the cache, and the hub cannot be reached" in errors
    assert "Traceback" not in errors


def _until(lines: IO[str], end: str) -> str:
    """All up to the line that holds `end`, or to the last one."""
    read = ""
    for line in lines:
        read += line
        if end in line:
            break
    return read


def test_what_cannot_be_pushed_is_said(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(exported)]) == 2
    assert (
        "no folder to write is named; add one, or with an exported folder --push NAMESPACE/NAME" in capsys.readouterr().err
    )
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 .* it is damaged or was changed"):
        push(copy, NAME)
    with pytest.raises(ValueError, match=r"is no exported model, expected what tbps export wrote; export the run first"):
        push(tmp_path, NAME)
    with pytest.raises(ValueError, match=r"'../x' is no name of the Hugging Face hub"):
        push(exported, "../x")

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from small_method import small_run

from tbps.config.run import Run
from tbps.config.serialise import to_json
from tbps.runs.config_hash import config_hash
from tbps.runs.run_folder import OpenRunFolder, RunFolder

# Another process that opens the folder, says so and waits for its standard input to end.
_HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from small_method import small_run
from tbps.runs.run_folder import OpenRunFolder
try:
    folder = OpenRunFolder(small_run(Path(sys.argv[2])))
    print("open", flush=True)
except ValueError as error:
    print(error, flush=True)
sys.stdin.read()
"""

# Killed while it writes an evaluation, the config and the timing.
_DIE = """
import os, signal, sys
from pathlib import Path
from tbps.runs.atomic_file import write_json
from tbps.runs.run_folder import RunFolder
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
folder = RunFolder(Path(sys.argv[1]))
if sys.argv[2] == "evaluation":
    folder.write_evaluation("val", 3, {"rank_1": 1.0, "mAP": 2.0})
write_json(getattr(folder, sys.argv[2]), {})
"""


def _other_process(runs: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _HOLD, str(Path(__file__).parents[1] / "training"), str(runs)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_config_is_resolved_and_readable_again(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    OpenRunFolder(run).close()
    folder = RunFolder.of(run)
    assert folder.path == tmp_path / "small" / "test" and folder.report.is_dir()
    config = folder.read_config()
    assert config["hash"] == config_hash(run) and config["run"] == json.loads(json.dumps(to_json(run)))
    assert config["versions"]["torch"] and "machine" in config
    assert config["git"] is None or set(config["git"]) == {"commit", "dirty"}
    assert folder.read_run() == run


def _begin(run: Run) -> None:
    """A folder in which a step was made."""
    OpenRunFolder(run).close()
    RunFolder.of(run).metrics.write_text('{"step": 1}\n')


def test_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    _begin(run)
    OpenRunFolder(replace(run, loop=replace(run.loop, log_steps=99))).close()
    with pytest.raises(ValueError, match=r"was started with another config \(optim.lr: 0.01 -> 0.1; ") as caught:
        OpenRunFolder(small_run(tmp_path, lr=0.1, eps=1e-2))
    assert str(caught.value).endswith(
        "optim.eps: 1e-08 -> 0.01); restore the old values to go on, or choose another name with --name"
    )


def test_another_config_may_begin_where_no_step_was_made(tmp_path: Path) -> None:
    OpenRunFolder(small_run(tmp_path)).close()
    changed = small_run(tmp_path, lr=0.1)
    OpenRunFolder(changed).close()
    assert RunFolder.of(changed).read_run() == changed
    (RunFolder.of(changed).checkpoints / "step-00000001").mkdir()
    with pytest.raises(ValueError, match=r"was started with another config \(optim.lr: 0.1 -> 0.01"):
        OpenRunFolder(small_run(tmp_path))


def test_a_second_copy_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    first = _other_process(tmp_path)
    assert first.stdout is not None and first.stdout.readline() == "open\n"
    with pytest.raises(ValueError, match="is in use by another process") as caught:
        OpenRunFolder(small_run(tmp_path))
    assert f"(process {first.pid} on " in str(caught.value)
    assert str(caught.value).endswith("wait until it ends, stop it, or choose another name")
    first.kill()
    first.wait()
    OpenRunFolder(small_run(tmp_path)).close()


def test_another_library_version_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = small_run(tmp_path)
    _begin(run)
    file = RunFolder.of(run).config
    config = json.loads(file.read_text())
    now = config["versions"]["torch"]
    config["versions"]["torch"] = "1.9.1"
    file.write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        OpenRunFolder(run).close()
    assert f"started with torch 1.9.1, goes on with {now}: bits may differ" in caplog.text


def test_unreadable_config_is_told(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    _begin(run)
    RunFolder.of(run).config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json cannot be read \(.*\); expected the config of a run"):
        OpenRunFolder(run)


def test_evaluations_are_kept_and_forgotten_by_step(tmp_path: Path) -> None:
    folder = OpenRunFolder(small_run(tmp_path))
    for step in (10, 5):
        folder.write_evaluation("val", step, {"rank_1": float(step), "mAP": 1.0})
    folder.write_evaluation("test", 10, {"rank_1": 1.0, "mAP": 1.0})
    assert folder.evaluated_steps("val") == [5, 10]
    assert folder.read_evaluation("val", 10) == {"rank_1": 10.0, "mAP": 1.0}
    folder.forget_evaluations_after(5)
    assert folder.evaluated_steps("val") == [5] and folder.read_evaluation("test", 10) is None
    folder.close()


@pytest.mark.parametrize("content", ["{}", '{"rank_1": "3", "mAP": null}'])
def test_an_evaluation_without_numbers_is_named(tmp_path: Path, content: str) -> None:
    folder = RunFolder.of(small_run(tmp_path))
    folder.evaluations.mkdir(parents=True)
    (folder.evaluations / "val-00000005.json").write_text(content)
    with pytest.raises(ValueError, match=r"val-00000005.json holds no number rank_1 and no number mAP; remove it, and"):
        folder.read_evaluation("val", 5)


@pytest.mark.parametrize("what", ["evaluation", "config", "timing", "metrics"])
def test_nothing_is_left_of_a_write_that_was_killed(tmp_path: Path, what: str) -> None:
    run = small_run(tmp_path)
    OpenRunFolder(run).close()
    folder = RunFolder.of(run)
    before = sorted(file for file in folder.path.rglob("*") if file.name != "evaluations")
    subprocess.run([sys.executable, "-c", _DIE, str(folder.path), what], check=False)
    assert [file.suffix for file in folder.path.rglob(".*")] == [".tmp"]
    OpenRunFolder(run).close()
    assert sorted(file for file in folder.path.rglob("*") if file.name != "evaluations") == before


def test_machine_choices_are_remembered(tmp_path: Path) -> None:
    folder = OpenRunFolder(small_run(tmp_path))
    assert folder.machine_choice("gemm") is None
    folder.remember_machine_choice("gemm", "medium")
    folder.close()
    assert RunFolder.of(small_run(tmp_path)).machine_choice("gemm") == "medium"


def test_restart_by_slurm_waits_for_what_it_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr("tbps.runs.run_folder.RESTART_WAIT_S", 0.5)
    other = _other_process(tmp_path)
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    run = small_run(tmp_path)
    with pytest.raises(ValueError, match=r"another process \(process \d+ on .*\) and was not let go in 0\.5 s; wait"):
        OpenRunFolder(run)
    monkeypatch.setattr("tbps.runs.run_folder.RESTART_WAIT_S", 60.0)
    ending = threading.Timer(1.0, other.communicate)
    ending.start()
    OpenRunFolder(run).close()
    ending.join()

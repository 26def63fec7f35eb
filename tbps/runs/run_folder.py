"""`runs/<recipe>/<name>/`: who may write there, the resolved config, evaluations and where everything else lies."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from pathlib import Path
from typing import IO, Any

from tbps.config.run import Run
from tbps.config.serialise import run_from_json, to_json
from tbps.data import file_lock
from tbps.runs import checkpoint
from tbps.runs.atomic_file import read_json, remove_asides, write_json
from tbps.runs.config_hash import config_hash, difference
from tbps.runs.versions import versions_of

logger = logging.getLogger(__name__)

RESTART_WAIT_S = 120.0
"""How long a job that Slurm has started again waits for the folder."""

_LIBRARIES = ("tbps", "torch", "accelerate", "transformers", "safetensors", "numpy")


class RunFolder:
    """Paths of a run folder, its evaluations and facts about the machine. Reading needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.evaluations = path / "evaluations"
        self.report = path / "report"
        self.profile = path / "profile"
        """Chrome traces of steps, where `loop.profile` asked for some."""
        self.lock = path / "lock"
        """Locked by the process that writes here, and says which that is."""
        self.lost = path / "lost.txt"
        """Which process was lost or hung, where that ended the run the last time."""
        self.timing = path / "timing.json"
        """Seconds of a step and of a save, as last measured."""

    @classmethod
    def of(cls, run: Run) -> RunFolder:
        """The folder of `run`, to read from."""
        return cls(Path(run.runs).expanduser() / run.recipe / run.name)

    def read_config(self) -> dict[str, Any]:
        """`config.json`: hash, run, git state, library versions, machine."""
        config = _read_object(self.config, advice="expected the config of a run")
        if "run" not in config:
            raise ValueError(f"{self.config} holds no run; expected the config of a run")
        return config

    def read_run(self) -> Run:
        """The run that this folder belongs to."""
        try:
            return run_from_json(self.read_config()["run"])
        except ValueError as error:
            raise error if str(self.config) in str(error) else ValueError(f"{self.config}: {error}") from error

    def check_same(self, run: Run) -> None:
        """ValueError where `run`, as launched, would give another result than what was started here.

        A folder in which no step was made holds nothing that another config could spoil: a first command that was refused.
        """
        if not self.begun():
            return
        recorded = self.read_run()
        if changes := difference(recorded, run.as_begun(recorded)):
            precision = " (loop.precision also comes from launch settings: give --accelerate or --loop.precision as then)"
            also = precision if any(change.startswith("loop.precision:") for change in changes) else ""
            raise ValueError(
                f"{self.path} was started with another config ({'; '.join(changes)}); restore the old values{also} to go on,"
                " or choose another name with --name"
            )

    def begun(self) -> bool:
        """Whether there are numbers or a checkpoint of a step."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return logged or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    def machine_choice(self, name: str) -> str | None:
        """What was chosen at the first start by measuring the machine, and changes bits."""
        choice: str | None = self.read_config()["machine"].get(name)
        return choice

    def remember_machine_choice(self, name: str, value: str) -> None:
        """Make later starts use the same choice."""
        config = self.read_config()
        if config["machine"].get(name) != value:
            config["machine"][name] = value
            write_json(self.config, config)

    def read_evaluation(self, split: str, step: int) -> dict[str, float] | None:
        """Values of `split` with the weights of `step`; None = not evaluated yet."""
        file = self._evaluation(split, step)
        if not file.exists():
            return None
        advice = "remove it, and the same command evaluates again"
        values = _read_object(file, advice=advice)
        if missing := [name for name in ("rank_1", "mAP") if not isinstance(values.get(name), int | float)]:
            raise ValueError(f"{file} holds no number {' and no number '.join(missing)}; {advice}")
        return values

    def write_evaluation(self, split: str, step: int, values: dict[str, float]) -> None:
        """Keep the values; whole or not there."""
        self.evaluations.mkdir(exist_ok=True)
        write_json(self._evaluation(split, step), values)

    def evaluated_steps(self, split: str) -> list[int]:
        """Steps with values of `split`, oldest first."""
        names = (file.stem.rpartition("-")[2] for file in self.evaluations.glob(f"{split}-*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def forget_evaluations_after(self, step: int) -> None:
        """Remove values of steps that training has not reached: they will be made again."""
        for split in ("val", "test"):
            for later in self.evaluated_steps(split):
                if later > step:
                    self._evaluation(split, later).unlink()

    def _evaluation(self, split: str, step: int) -> Path:
        return self.evaluations / f"{split}-{step:08d}.json"


class OpenRunFolder(RunFolder):
    """A run folder that this process alone may write to, until it dies."""

    def __init__(self, run: Run) -> None:
        super().__init__(RunFolder.of(run).path)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.report.mkdir(exist_ok=True)
        self._lock = _lock(self.path)
        checkpoint.remove_temporary(self.checkpoints)
        remove_asides(self.evaluations)
        for file in (self.config, self.timing, self.metrics):
            remove_asides(self.path, file.name)
        if self.config.exists() and self.begun():
            self._check(run)
        else:
            write_json(self.config, self._new_config(run))

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def _check(self, run: Run) -> None:
        self.check_same(run)
        config = self.read_config()
        for library, now in versions_of(_LIBRARIES).items():
            before = config["versions"].get(library)
            if before != now:
                logger.warning("%s: started with %s %s, goes on with %s: bits may differ", self.path, library, before, now)

    def _new_config(self, run: Run) -> dict[str, Any]:
        return {
            "hash": config_hash(run),
            "run": to_json(run),
            "git": _git_state(),
            "versions": versions_of(_LIBRARIES),
            "machine": {},
        }


def _lock(folder: Path) -> IO[str]:
    """Take the folder's lock. A POSIX lock: gone with the process, and not inherited by its loader workers."""
    file = (folder / "lock").open("a+", encoding="utf-8")
    # Slurm starts a job again when it has lost a node; what runs there may live on for a while.
    wait_s = RESTART_WAIT_S if int(os.environ.get("SLURM_RESTART_COUNT", "0")) else 0.0
    if not file_lock.take(file):
        file.seek(0)
        holder = file.read().strip() or "unknown"
        if wait_s:
            logger.info("%s is held by what was there before the restart (%s): waiting up to %g s", folder, holder, wait_s)
        if not file_lock.take(file, wait_s=wait_s):
            file.close()
            waited = f" and was not let go in {wait_s:g} s" if wait_s else ""
            raise ValueError(
                f"{folder} is in use by another process ({holder}){waited};"
                " wait until it ends, stop it, or choose another name"
            )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return file


def _read_object(file: Path, *, advice: str) -> dict[str, Any]:
    found = read_json(file, advice=advice)
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds {type(found).__name__}; {advice}")
    return found


def _git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside a git checkout of this package."""
    root = Path(__file__).resolve().parents[2]
    try:
        top, commit, status = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    # Installed into a virtual environment inside somebody else's checkout: that commit says nothing about us.
    return {"commit": commit, "dirty": bool(status)} if Path(top) == root else None

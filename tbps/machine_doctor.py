"""`tbps doctor`: what of this machine, its job manager and its folders would spoil a run, and what to change."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tbps.config.loop import Loop
from tbps.data import file_lock
from tbps.data.worker_batches import PREFETCH_BATCHES
from tbps.runs import checkpoint
from tbps.runs.atomic_file import read_json
from tbps.runs.run_folder import RunFolder
from tbps.training.distributed import gather_objects, start_processes

_LIBRARIES = ("torch", "accelerate", "deepspeed", "submitit", "transformers", "safetensors", "webdataset")
_SPARE_CHECKPOINTS = 2
_SHARE = "choose one on a file system that all nodes share, with --runs"
_MARGIN = 1.5
"""A step and a save may take so many times longer than measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    good: bool
    text: str


def examine(runs: Path, run_folder: Path | None) -> tuple[str, bool]:
    """The report, and whether all is well. Call on every process of a launcher, or alone.

    runs: folder of all runs; run_folder: one run, whose speed and size the machine is measured against.
    """
    if "WORLD_SIZE" in os.environ:
        start_processes(Loop())
    processes = gather_objects(_this_process())
    findings = [
        *_libraries(),
        *_slurm(run_folder),
        *_folder_of_runs(runs),
        *_space(runs, run_folder),
        _shared_memory(run_folder),
    ]
    lines = [f"{'rank':>4}  {'host':<20}  {'device':<28}  memory", *processes, ""]
    lines += [f"{'ok  ' if finding.good else 'BAD '} {finding.text}" for finding in findings]
    return "\n".join(lines), all(finding.good for finding in findings)


def _this_process() -> str:
    device, memory = f"CPU, {torch.get_num_threads()} threads", f"{_host_memory_gib():.0f} GiB"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        device, memory = f"{properties.name}", f"{properties.total_memory / 2**30:.0f} GiB"
    return f"{os.environ.get('RANK', '0'):>4}  {platform.node():<20}  {device:<28}  {memory}"


def _host_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _libraries() -> list[Finding]:
    found = []
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            found.append(f"{library} not installed")
    findings = [Finding(good=True, text=f"Python {platform.python_version()}, {', '.join(found)}")]
    if torch.version.cuda is None:
        return [*findings, Finding(good=True, text="PyTorch is built without CUDA: training runs on the CPU")]
    driver = _driver_cuda()
    built = _cuda_number(torch.version.cuda)
    if not driver:
        return [*findings, Finding(good=True, text=f"PyTorch is built for CUDA {torch.version.cuda}; no driver: CPU only")]
    text = f"PyTorch is built for CUDA {torch.version.cuda}, the driver knows CUDA {driver // 1000}.{driver % 1000 // 10}"
    if driver // 1000 < built // 1000:
        text += ": update the driver, or install the PyTorch of its version"
    return [*findings, Finding(good=driver // 1000 >= built // 1000, text=text)]


def _driver_cuda() -> int:
    """The newest CUDA that the driver knows, 12.8 as 12080; 0 without a driver."""
    number = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return 0
    return number.value


def _cuda_number(text: str) -> int:
    """12.8 as the driver counts it: 12080."""
    major, minor = (int(part) for part in text.split(".")[:2])
    return 1000 * major + 10 * minor


# -- Slurm ---------------------------------------------------------------------------------------------------------------


def _slurm(run_folder: Path | None) -> list[Finding]:
    if shutil.which("scontrol") is None:
        return [Finding(good=True, text="no Slurm here")]
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        return [Finding(good=False, text=f"scontrol does not answer ({reason}): is slurmctld running, is SLURM_CONF right?")]
    settings = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", done.stdout, re.MULTILINE))
    findings = [_preemption(settings), _requeue(settings)]
    kill_wait_s = int(settings.get("KillWait", "30 sec").split()[0])
    text = f"Slurm's KillWait is {kill_wait_s} s"
    needed_s = None if run_folder is None else _step_and_save_s(run_folder)
    if needed_s is None:
        return [
            *findings,
            Finding(good=True, text=f"{text}; name a run that has saved, to compare it with a step and a save"),
        ]
    text += f", a step and a save of {run_folder} took {needed_s:.1f} s"
    if good := kill_wait_s >= _MARGIN * needed_s:
        return [*findings, Finding(good=good, text=text)]
    asked_s = int(_MARGIN * needed_s) + 1
    text += f": ask for KillWait={asked_s}, or lose the steps since the last save at every requeue (save more often:"
    return [
        *findings,
        Finding(good=good, text=f"{text} --loop.save-steps); for time limits, --signal=USR2@{asked_s} is enough"),
    ]


def _preemption(settings: dict[str, str]) -> Finding:
    mode = settings.get("PreemptMode", "OFF")
    if settings.get("PreemptType", "preempt/none") == "preempt/none" or mode.startswith("OFF"):
        return Finding(good=True, text="Slurm preempts nothing")
    warned = "preempt_send_user_signal" in settings.get("SlurmctldParameters", "")
    text = f"Slurm preempts by {mode}, and {'sends' if warned else 'does not send'} USR2 first"
    if "CANCEL" in mode:
        return Finding(good=False, text=f"{text}: a preempted job is not started again; ask for PreemptMode=REQUEUE")
    return Finding(good=True, text=text)


def _requeue(settings: dict[str, str]) -> Finding:
    on = settings.get("JobRequeue", "1") == "1"
    return Finding(good=True, text=f"Slurm {'starts jobs again by itself' if on else 'requeues jobs that ask for it'}")


def _step_and_save_s(run_folder: Path) -> float | None:
    """What a signal waits for at most: the end of a step, and a save. None where nothing was saved yet."""
    folder = RunFolder(run_folder)
    if not folder.timing.exists():
        return None
    timing = read_json(folder.timing, advice="remove it: the run's next save writes it again")
    return float(timing["step_s"]) + float(timing["save_s"])


# -- folders -------------------------------------------------------------------------------------------------------------


def _folder_of_runs(runs: Path) -> list[Finding]:
    """Whether all processes see one folder and may write there, and whether its locks work.

    What one process finds must not let it leave while the others wait for it.
    """
    state = "does not exist"
    if runs.exists():
        state = "" if runs.is_dir() and os.access(runs, os.W_OK) else "is no folder that may be written"
    states = gather_objects((platform.node(), state))
    if not any(state for _, state in states):
        return [_lock(runs)]
    if all(state == "does not exist" for _, state in states):
        return [Finding(good=True, text=f"{runs} does not exist yet: a run makes it; its locks were not tried")]
    bad = [Finding(good=False, text=f"{runs} {state} on {host}") for host, state in dict.fromkeys(states) if state]
    if any(not state for _, state in states):
        bad.append(Finding(good=False, text=f"{runs} is not the same on all: {_SHARE}"))
    return bad


def _lock(runs: Path) -> Finding:
    """Whether a lock that one process holds is seen by another; with a launcher, by one of every host."""
    file = runs / ".doctor-lock"
    first = os.environ.get("RANK", "0") == "0"
    held = file.open("a+", encoding="utf-8") if first else None
    missing = held is not None and file_lock.are_missing(file)
    if held is not None and not missing:
        file_lock.take(held)
    missing = gather_objects(missing)[0]  # all others wait until it is held
    if missing:
        file.unlink(missing_ok=True)
        return Finding(good=file_lock.WITHOUT in os.environ, text=file_lock.no_locks(runs))
    if first:  # a process never hinders itself: another one has to try
        attempt = multiprocessing.get_context("spawn").Pool(1)
        with attempt:
            found = attempt.apply(file_lock.who_has_it, (file,))
    else:
        found = file_lock.who_has_it(file)
    everywhere = gather_objects((platform.node(), found))
    if held is not None:
        held.close()
        file.unlink()
    apart, bad = (sorted({host for host, found in everywhere if found == what}) for what in ("not there", "taken"))
    if apart:
        return Finding(good=False, text=f"{runs} on {', '.join(apart)} is another folder than that of rank 0: {_SHARE}")
    if not bad:
        return Finding(good=True, text=f"locks in {runs} keep a second copy of a run out")
    text = f"locks in {runs} are not seen on {', '.join(bad)}: a second copy of a run would not be kept out;"
    return Finding(good=False, text=f"{text} mount the file system with locks (NFS: without nolock, Lustre: with flock)")


def _space(runs: Path, run_folder: Path | None) -> list[Finding]:
    existing = next(parent for parent in (runs.absolute(), *runs.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / 2**30:.0f} GiB free at {existing}"
    newest = None if run_folder is None else checkpoint.newest(RunFolder(run_folder).checkpoints)
    if run_folder is None or newest is None:
        return [Finding(good=True, text=text)]
    size = sum(file.stat().st_size for file in newest.iterdir())
    text += f"; a checkpoint of {run_folder} has {size / 2**30:.2f} GiB"
    if free >= _SPARE_CHECKPOINTS * size:
        return [Finding(good=True, text=text)]
    return [Finding(good=False, text=f"{text}: make room for {_SPARE_CHECKPOINTS}, or set --runs to another disk")]


def _shared_memory(run_folder: Path | None) -> Finding:
    """Whether the batches that loader workers prepare ahead fit into /dev/shm, through which they hand them over."""
    free = shutil.disk_usage("/dev/shm").free
    text = f"{free / 2**20:.0f} MiB free in /dev/shm"
    if run_folder is None or not (folder := RunFolder(run_folder)).config.exists():
        return Finding(good=True, text=f"{text}; name a run to compare it with its batches")
    run = folder.read_run()
    data, share = run.data, run.data.batch_pairs // int(os.environ.get("WORLD_SIZE", "1"))
    pairs = data.micro_batch_pairs or share
    held = share // pairs if run.needs.contrast == "batch" else 1  # all micro-batches of a step, for its second pass
    height, width = data.image_px
    batch = pairs * 3 * height * width * (2 if data.changes_on_host and run.needs.second_view else 1)
    needed = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * (data.workers * PREFETCH_BATCHES + held) * batch
    text += f"; batches of {run_folder} take {needed / 2**20:.0f} MiB ({data.workers} workers a process)"
    if not data.workers or needed <= free:
        return Finding(good=True, text=text)
    advice = "enlarge it (Docker: --shm-size), or lower --data.workers or --data.micro-batch-pairs"
    return Finding(good=False, text=f"{text}: {advice}")

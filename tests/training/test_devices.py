"""Which device is chosen, what is refused, that all processes agree; and what an error of a device means."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import ready_python
import torch

from tbps.training.device_errors import verdict_of
from tbps.training.devices import Device, choose_device, why_gpus, why_unfit
from tbps.training.launch_settings import asks_for_cpu


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_GPUS": "8"}, "SLURM_GPUS=8"),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, "SLURM_GPUS_PER_NODE=a100:4"),
        ({"SLURM_GPUS_PER_TASK": "1"}, "SLURM_GPUS_PER_TASK=1"),
        ({"SLURM_GPUS_ON_NODE": "2"}, "SLURM_GPUS_ON_NODE=2"),
        ({"SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES is 0,1"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-3f"}, "CUDA_VISIBLE_DEVICES is GPU-3f"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, "the launch settings ask for some"),
        ({"SLURM_GPUS_ON_NODE": "0", "SLURM_JOB_GPUS": "", "SLURM_JOB_ID": "4"}, ""),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "False"}, ""),
        ({}, ""),
    ],
)
def test_who_expects_gpus(environment: dict[str, str], words: str) -> None:
    found = why_gpus(environment)
    assert words in found and bool(words) == bool(found)
    assert not asks_for_cpu(environment)
    if not torch.cuda.is_available() and words:
        with pytest.raises(
            ValueError, match=rf"rank 3 on {platform.node()} finds no GPU, though .*; look there at nvidia-smi"
        ):
            choose_device({**environment, "RANK": "3"})
    # said openly, the CPU is no accident
    for said in ({"ACCELERATE_USE_CPU": "true"}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1,-1"}):
        assert asks_for_cpu({**environment, **said})
        assert choose_device({**environment, **said}).kind == "cpu"


def test_what_does_not_fit_together() -> None:
    cpu = Device(rank=0, host="n0", kind="cpu")
    gpu = [Device(rank=rank, host=f"n{rank // 2}", kind="cuda", name="H100", card=f"GPU-{rank % 2}") for rank in range(4)]
    assert why_unfit([cpu]) == why_unfit(gpu) == ""
    assert why_unfit([*gpu[:2], Device(rank=2, host="n1", kind="cpu")]).startswith(
        "rank 2 on n1 trains on CPU, rank 0 on n0 on H100; look at nvidia-smi on the host without GPU"
    )
    twice = [*gpu[:3], Device(rank=3, host="n1", kind="cuda", name="H100", card="GPU-0")]
    assert why_unfit(twice) == "ranks 2 and 3 on n1 use the same GPU (H100, GPU-0); start one process per GPU"


_AGREE = """
import os, sys
from datetime import timedelta
from tbps.training.devices import Device, agree
rank = int(os.environ["RANK"])
kinds = sys.argv[1].split(",")
kind = kinds[rank]
own = "rank 1 finds no GPU" if kind == "none" else Device(rank=rank, host=f"n{rank}", kind=kind, name=kind)
try:
    agree(own, timedelta(seconds=20))
except ValueError as error:
    print(f"refused: {error}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ("cuda,cpu", "refused: rank 1 on n1 trains on cpu, rank 0 on n0 on cuda; look at"),
        ("cuda,none", "refused: rank 1 finds no GPU"),
    ],
)
def test_all_processes_hear_of_it(kinds: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "agree.py").write_text(_AGREE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(tmp_path / "agree.py"), kinds]
    done = ready_python.run(command, folder=tmp_path, variables=environment, timeout_s=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith(words) for line in lines), done.stdout


ECC = (
    "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported at some other call"
)
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCompile with `TORCH_USE_CUDA_DSA`"
NCCL = "NCCL error in: ../ProcessGroupNCCL.cpp:1, unhandled cuda error, NCCL version 2.26\nncclUnhandledCudaError"
TWICE = "NCCL error, invalid usage, NCCL version 2.26\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (ECC, 75, ": CUDA error: uncorrectable ECC error encountered; its GPU or node is at fault"),
        (BUSY, 75, "is/are busy or unavailable; "),
        (NCCL, 75, "unhandled cuda error, NCCL version 2.26; "),
        ("CUDA error: unspecified launch failure", 75, "unspecified launch failure; "),
        ("CUDA error: an illegal memory access was encountered", 75, "sbatch --exclude="),
        (TWICE, 2, "has no GPU of its own (Duplicate GPU detected : rank 1 and rank 0 both on"),
        ("CUDA error: invalid device ordinal\nGPU device may be out of range", 2, "start one process per GPU"),
        ("CUDA error: device-side assert triggered", 0, ""),
        ("CUDA error: out of memory", 0, ""),
        ("CUDA error: no kernel image is available for execution on the device", 0, ""),
        ("The size of tensor a (3) must match the size of tensor b (4)", 0, ""),
    ],
)
def test_what_an_error_means(text: str, status: int, words: str) -> None:
    verdict = verdict_of(RuntimeError(text))
    assert (verdict.status if verdict else 0) == status
    if verdict:
        assert verdict.sentence.startswith(f"rank 0 on {platform.node()}") and words in verdict.sentence
        assert "\n" not in verdict.sentence


def test_out_of_memory_stays_what_it_is() -> None:
    assert verdict_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. CUDA error")) is None
    assert verdict_of(ValueError(ECC)) is None

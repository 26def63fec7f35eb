"""The settings files mean under Slurm what they mean to `accelerate launch`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import ready_python

from launch.accelerate_settings import FOLDER, launch_environment, planned_environment, settings_environment, settings_file
from tbps.training.launch_settings import asks_for_cpu

_DUMP = """\
import json, os
from pathlib import Path
if os.environ.get("RANK", "0") == "0":
    told = ("ACCELERATE_", "FSDP_", "CUDA_VISIBLE_DEVICES")
    found = {name: value for name, value in os.environ.items() if name.startswith(told)}
    Path("environment.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_as_accelerate_launch_sets_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "dump.py").write_text(_DUMP)
    file = settings_file(name)
    options = ("--config_file", str(file), "--num_machines", "1", "--num_processes", "2", "--main_process_port", "0")
    words = (sys.executable, "-m", "accelerate.commands.launch", *options, "dump.py")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_", "CUDA_"))}
    done = ready_python.run(words, folder=tmp_path, variables=clean, timeout_s=120)
    assert done.returncode == 0, done.stderr
    expected = json.loads((tmp_path / "environment.json").read_text())
    assert "ACCELERATE_MIXED_PRECISION" in expected
    assert settings_environment(file, num_processes=2) == expected
    assert asks_for_cpu(expected) == (name == "cpu")


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distributed_type: MULTI_GPU\nmixed_precision: bf16\nnum_machines: 1\nnum_processes: 2\n")
    assert settings_file(str(file)) == file
    assert settings_environment(file, num_processes=4)["ACCELERATE_MIXED_PRECISION"] == "bf16"


_SAID = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE")
_ZERO = "distributed_type: DEEPSPEED\nnum_machines: 1\nnum_processes: 2\n"
OWN = {
    "precision": "distributed_type: MULTI_GPU\nmixed_precision: bf16\nnum_machines: 1\nnum_processes: 2\n",
    "quoted": "distributed_type: MULTI_GPU\nmixed_precision: 'no'\nnum_machines: 1\nnum_processes: 2\n",
    "both": f"{_ZERO}mixed_precision: bf16\ndeepspeed_config:\n  zero_stage: 3\n",
    "no stage": f"{_ZERO}deepspeed_config:\n  gradient_accumulation_steps: 1\n",
    "more of ZeRO": f"{_ZERO}deepspeed_config:\n  zero_stage: 1\n  gradient_clipping: 1.0\n",
    "another kind": "distributed_type: FSDP\nnum_machines: 1\nnum_processes: 2\nfsdp_config: {}\n",
    "JSON": '{"distributed_type": "MULTI_GPU", "mixed_precision": "bf16", "num_machines": 1, "num_processes": 2}',
}


@pytest.mark.parametrize("before", [{}, {"ACCELERATE_MIXED_PRECISION": "bf16"}])
@pytest.mark.parametrize("name", [*sorted(file.stem for file in FOLDER.glob("*.yaml")), *OWN])
def test_what_is_planned_is_what_accelerate_says(
    name: str, before: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **before})
    file = tmp_path / ("settings.json" if name == "JSON" else "settings.yaml")
    file.write_text(OWN.get(name, ""))
    given = str(file) if name in OWN else name
    expected, planned = launch_environment(before, given), planned_environment(before, given)
    assert {key: planned.get(key) for key in _SAID} == {key: expected.get(key) for key in _SAID}
    assert planned_environment(before, "") == before


def test_a_file_of_unknown_settings_is_refused_when_it_is_planned(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distributed_type: MULTI_GPU\nnum_gpus: 4\n")
    with pytest.raises(ValueError, match="num_gpus"):
        planned_environment({}, str(file))


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError, match=r"Accelerate settings 'zero9' not found; expected a file, or one of bf16, cpu, ddp"
    ):
        settings_file("zero9")

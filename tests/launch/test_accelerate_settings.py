"""The settings files mean under Slurm what they mean to `accelerate launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.accelerate_settings import FOLDER, settings_environment, settings_file
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
    done = subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120, check=False)
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


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError, match=r"Accelerate settings 'zero9' not found; expected a file, or one of bf16, cpu, ddp"
    ):
        settings_file("zero9")

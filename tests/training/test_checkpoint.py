from __future__ import annotations

import json
import logging
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_method import SmallMethod
from torch import nn

from tbps.training import checkpoint
from tbps.training.checkpoint import folder_of


def _save(parent: Path, step: int, *, value: float = 0.0) -> Path:
    tensors = {"a": torch.full((300,), value + step), "b": torch.arange(3)}
    return checkpoint.save(parent, step=step, model=tensors, optimiser={"m/a": torch.ones(2)}, progress={"step": step})


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = _save(tmp_path, 7)
    assert folder == tmp_path / "step-00000007" and checkpoint.newest(tmp_path) == folder
    assert torch.equal(checkpoint.read_tensors(folder / checkpoint.MODEL_FILE)["a"], torch.full((300,), 7.0))
    assert checkpoint.read_progress(folder) == {"step": 7}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format_version"] == 1 and manifest["step"] == 7
    assert sorted(manifest["files"]) == ["model.safetensors", "optimiser.safetensors", "progress.json"]


def _remove_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _empty_optimiser(folder: Path) -> None:
    (folder / "optimiser.safetensors").write_bytes(b"")


def _halve_model(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _flip_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def _remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _halve_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def _newer_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))


def _forget_model(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = [
    (_remove_model, "model.safetensors cannot be read (No such file or directory)"),
    (_empty_optimiser, "optimiser.safetensors has 0 bytes, expected "),
    (_halve_model, "model.safetensors has "),
    (_flip_bit, "model.safetensors has another sha256 than manifest.json says"),
    (_remove_manifest, "manifest.json cannot be read ("),
    (_halve_manifest, "manifest.json cannot be read ("),
    (_newer_format, "format version 2, expected 1"),
    (_forget_model, "manifest.json does not list model.safetensors"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_broken_checkpoint_is_skipped_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    good, broken = _save(tmp_path, 1), _save(tmp_path, 2)
    damage(broken)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest(tmp_path) == good
    assert f"checkpoint {broken} is broken and skipped: {reason}" in caplog.text
    assert broken.exists(), "a reader changes nothing"
    assert checkpoint.newest(tmp_path, set_aside=True) == good
    assert not broken.exists() and (tmp_path / "broken-step-00000002").exists()
    assert _save(tmp_path, 2) == checkpoint.newest(tmp_path)


def test_none_where_nothing_is_whole(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None
    _remove_manifest(_save(tmp_path, 1))
    assert checkpoint.newest(tmp_path) is None


def test_a_broken_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    _remove_model(_save(tmp_path, 4))
    _save(tmp_path, 4, value=1.0)
    assert checkpoint.why_broken(folder_of(tmp_path, 4)) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000004"]


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        _save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, best=2)
    assert checkpoint.steps_in(tmp_path) == [2, 4, 5]


def test_temporary_folders_of_killed_saves_are_removed(tmp_path: Path) -> None:
    good = _save(tmp_path, 1)
    (tmp_path / ".tmp-step-00000002").mkdir()
    (tmp_path / ".tmp-step-00000002" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) == good
    checkpoint.remove_temporary(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def _save_with_little_room(parent: Path, answer: multiprocessing.queues.Queue[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        _save(parent, 2)
    except OSError as error:
        answer.put(str(error))


def test_disk_full_keeps_the_earlier_checkpoint_and_says_so(tmp_path: Path) -> None:
    good = _save(tmp_path, 1)
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_save_with_little_room, args=(tmp_path, answer))
    process.start()
    message = answer.get(timeout=20)
    process.join()
    assert message.startswith(f"checkpoint {tmp_path / 'step-00000002'} could not be written: ")
    assert "File too large" in message
    assert message.endswith("the checkpoint of step 1 is kept; make room and run the same command again")
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.newest(tmp_path) == good


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    method = SmallMethod()
    folder = checkpoint.save(tmp_path, step=1, model=method.state_dict(), optimiser={}, progress={})
    method.prd_head = nn.Linear(16, 5)
    method.online.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="another architecture") as caught:
        checkpoint.load_model(method, folder)
    assert str(caught.value) == (
        f"{folder} holds another architecture, 4 of 19 tensors differ: online.extra.weight: found none, expected (2, 2);"
        " online.extra.bias: found none, expected (2,); prd_head.weight: found (2, 16), expected (5, 16);"
        " use the config it was made with"
    )


def test_weights_come_back_to_the_last_bit(tmp_path: Path) -> None:
    method, other = SmallMethod(), SmallMethod()
    folder = checkpoint.save(tmp_path, step=1, model=method.state_dict(), optimiser={}, progress={})
    checkpoint.load_model(other, folder)
    state = other.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in method.state_dict().items())

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_method import SmallMethod
from torch import nn

from tbps.config.optim import Optimiser
from tbps.runs import checkpoint
from tbps.runs.checkpoint import folder_of
from tbps.training.optimiser import load_state_tensors, make_optimiser


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


def _rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": checkpoint._digest(manifest)}))


def _newer_format(folder: Path) -> None:
    _rewrite_manifest(folder, lambda manifest: manifest.update(format_version=2))


def _forget_model(folder: Path) -> None:
    _rewrite_manifest(folder, lambda manifest: manifest["files"].pop("model.safetensors"))


def _missing(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


FILES = ("model.safetensors", "optimiser.safetensors", "progress.json", "manifest.json")
MISSING, HALF = "cannot be read (", " bytes, expected "
REASONS = {_missing: MISSING, _empty: HALF, _half: HALF, _flipped: "has another sha256 than manifest.json says"}


def _assert_skipped(parent: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    good, broken = _save(parent, 1), _save(parent, 2)
    damage(broken)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest(parent) == good
    assert f"checkpoint {broken} is broken and skipped: {reason}" in caplog.text
    assert broken.exists(), "a reader changes nothing"
    assert checkpoint.newest(parent, set_aside=True) == good
    assert not broken.exists() and (parent / "broken-step-00000002").exists()
    assert _save(parent, 2) == checkpoint.newest(parent)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", REASONS)
def test_a_spoiled_file_makes_the_checkpoint_be_skipped_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], name: str
) -> None:
    _assert_skipped(tmp_path, lambda folder: spoil(folder / name), name, caplog)
    if name != "manifest.json":
        assert REASONS[spoil] in caplog.text


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    folder = _save(tmp_path, 1)
    data = (folder / "manifest.json").read_bytes()
    said = json.loads(data)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        (folder / "manifest.json").write_bytes(bytes(flipped))
        try:
            says_the_same = json.loads(flipped) == said
        except ValueError:
            says_the_same = False
        assert (checkpoint.why_broken(folder) is None) == says_the_same, bytes(flipped)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_newer_format, "format version 2, expected 1"),
        (_forget_model, "manifest.json does not list model.safetensors"),
    ],
)
def test_a_manifest_of_another_kind_is_skipped_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    _assert_skipped(tmp_path, damage, reason, caplog)


def _save_and_die(parent: Path, at: int) -> None:
    """Save step 2 and prune to it, and be killed just before file operation `at` of that."""
    operations = itertools.count()

    def count(event: str, arguments: tuple[object, ...]) -> None:
        touches = any(isinstance(argument, str | Path) and str(parent) in str(argument) for argument in arguments)
        if touches and event.split(".")[0] in ("open", "os", "shutil") and next(operations) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    _save(parent, 2)
    checkpoint.prune(parent, keep=1, best=None)
    os._exit(0)


def test_killed_at_every_file_operation_of_a_save_the_newest_checkpoint_loads(tmp_path: Path) -> None:
    killed = 0
    while True:
        parent = tmp_path / str(killed)
        _save(parent, 1)
        child = multiprocessing.get_context("fork").Process(target=_save_and_die, args=(parent, killed))
        child.start()
        child.join()
        newest = checkpoint.newest(parent)
        assert newest is not None
        step = checkpoint.read_progress(newest)["step"]
        assert float(checkpoint.read_tensors(newest / checkpoint.MODEL_FILE)["a"][0]) == step
        checkpoint.remove_temporary(parent)
        assert _save(parent, 3) == checkpoint.newest(parent)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
    assert step == 2 and killed > 20, f"{killed} file operations were seen"


def test_none_where_nothing_is_whole(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None
    _missing(_save(tmp_path, 1) / "manifest.json")
    assert checkpoint.newest(tmp_path) is None


def test_a_broken_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    _missing(_save(tmp_path, 4) / "model.safetensors")
    _save(tmp_path, 4, value=1.0)
    assert checkpoint.why_broken(folder_of(tmp_path, 4)) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000004"]


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        _save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, best=2)
    assert checkpoint.steps_in(tmp_path) == [2, 4, 5]


def _prune_what_cannot_be_removed(folder: Path, answer: multiprocessing.queues.Queue[Any]) -> None:
    """As a user who is not root. A folder without write permission refuses like NFS does, whose files are still read."""
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.setuid(65534)
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tbps.runs.checkpoint").addHandler(handler)
    parent = folder / "checkpoints"
    try:
        for step in (1, 2, 3, 4):
            _save(parent, step)
            if step == 1:
                folder_of(parent, 1).chmod(0o555)
            if step == 4:
                next(parent.glob(".tmp-*")).chmod(0o755)
            checkpoint.prune(parent, keep=1, best=None)
            answer.put((checkpoint.steps_in(parent), sorted(entry.name for entry in parent.glob(".tmp-*")), told.copy()))
            told.clear()
        _save(parent, 5)
        answer.put(sorted(entry.name for entry in parent.iterdir()))
    except OSError as error:
        answer.put(repr(error))


def test_what_cannot_be_pruned_is_a_warning_and_is_removed_at_a_later_save() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        _assert_pruned_later(Path(folder))


def _assert_pruned_later(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_prune_what_cannot_be_removed, args=(folder, answer))
    process.start()
    rest, again = ".tmp-old-step-00000001", "could not be removed (Permission denied): it is tried again at the next save"
    assert answer.get(timeout=20) == ([1], [], [])
    assert answer.get(timeout=20) == ([2], [rest], [f"{folder}/checkpoints/step-00000001 {again}"])
    assert answer.get(timeout=20) == ([3], [rest], [f"{folder}/checkpoints/{rest} {again}"])
    assert answer.get(timeout=20)[0] == [4]
    assert answer.get(timeout=20) == ["step-00000004", "step-00000005"]
    process.join()


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


def test_what_an_older_checkpoint_holds_of_a_copy_that_nothing_reads_is_passed_over(tmp_path: Path) -> None:
    older = SmallMethod()
    older.momentum_encoder.image.extra = nn.Linear(2, 2)
    older.online.image.extra = nn.Linear(2, 2)
    method = SmallMethod()
    method.online.image.extra = nn.Linear(2, 2)
    folder = checkpoint.save(tmp_path, step=1, model=older.state_dict(), optimiser={}, progress={})
    copies = {"momentum_encoder": "online"}
    checkpoint.load_model(method, folder, copies=copies)
    assert all(torch.equal(older.state_dict()[name], tensor) for name, tensor in method.state_dict().items())
    unread = "momentum_encoder.image.extra.weight: found (2, 2), expected none"
    with pytest.raises(ValueError, match=re.escape(unread)):
        checkpoint.load_model(method, folder)
    method.online.image.extra = nn.Linear(2, 3)  # another architecture, not a part that is no longer read
    with pytest.raises(ValueError, match=re.escape("4 of 21 tensors differ")):
        checkpoint.load_model(method, folder, copies=copies)


def test_weights_come_back_to_the_last_bit(tmp_path: Path) -> None:
    method, other = SmallMethod(), SmallMethod()
    folder = checkpoint.save(tmp_path, step=1, model=method.state_dict(), optimiser={}, progress={})
    checkpoint.load_model(other, folder)
    state = other.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in method.state_dict().items())


def _private_mb() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def _resume_large(folder: Path, answer: multiprocessing.queues.Queue[Any]) -> None:
    """Weights of 64 MB, optimiser state of 128."""
    method = nn.Linear(4096, 4096, bias=False)
    optimiser = make_optimiser(method, Optimiser(lr=1e-3))
    before = _private_mb()
    tensors = checkpoint.read_tensors(folder / checkpoint.OPTIMISER_FILE)
    sum(float(tensor.sum()) for tensor in tensors.values())
    checkpoint.load_model(method, folder)
    read_mb = _private_mb() - before
    load_state_tensors(optimiser, tensors)
    del tensors
    answer.put((read_mb, _private_mb() - before, str(folder) in Path("/proc/self/maps").read_text()))


def test_what_is_resumed_from_is_shared_by_the_processes_of_a_node_and_let_go(tmp_path: Path) -> None:
    weight = torch.zeros(4096, 4096)
    state = {"exp_avg/weight": weight, "exp_avg_sq/weight": weight.clone(), "step/weight": torch.ones(())}
    folder = checkpoint.save(tmp_path, step=1, model={"weight": weight}, optimiser=state, progress={})
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_resume_large, args=(folder, answer))
    process.start()
    read_mb, held_mb, still_mapped = answer.get(timeout=30)
    process.join()
    assert read_mb < 16, "whoever reads it has a copy of its own"
    assert 128 <= held_mb < 160
    assert not still_mapped

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_method import SmallMethod

from tbps.config.optim import Optimiser
from tbps.config.start import Start
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.training.optimiser import make_optimiser, state_tensors
from tbps.training.start import start

OPTIM = Optimiser(lr=0.1)


def _start(folder: Path, given: Start) -> tuple[SmallMethod, int]:
    method = SmallMethod()
    return method, start(method, RunFolder(folder), given).steps


def test_scratch_moves_the_momentum_encoder_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    fresh = SmallMethod()
    with torch.no_grad():
        fresh.momentum_encoder.image.weight.zero_()
    with caplog.at_level(logging.INFO):
        started = start(fresh, RunFolder(tmp_path), Start())
    assert started.steps == 0 and not started.optimiser_tensors and "starting from random weights" in caplog.text
    torch.testing.assert_close(fresh.momentum_encoder.image.weight, 0.1 * fresh.online.image.weight.detach())


def test_given_weights_are_placed_and_their_digest_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, file = SmallMethod(), tmp_path / "weights.safetensors"
    save_file(source.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with caplog.at_level(logging.INFO):
        method, _ = _start(tmp_path, Start(weights=str(file), sha256=digest.upper()))
    assert torch.equal(method.online.image.weight, source.online.image.weight)
    assert f"starting from {file}: " in caplog.text
    with pytest.raises(ValueError, match=rf"has sha256 {digest}, expected 00ff: get the right file, or clear start.sha256"):
        _start(tmp_path, Start(weights=str(file), sha256="00ff"))
    with pytest.raises(ValueError, match=r"start.weights .*absent cannot be read \(No such file or directory\)"):
        _start(tmp_path, Start(weights=str(tmp_path / "absent"), sha256="00ff"))


def test_what_is_in_no_start_weights_and_is_never_trained_is_refused(tmp_path: Path) -> None:
    """Whatever the method: here, by name."""
    method = SmallMethod()
    method.frozen = ("online.words.weight", "online.text.weight", "online.text.bias")
    whole = method.state_dict()
    sentence = r"starting from {}: {} would stay random, because the start weights lack what this run reads and no loss"
    with pytest.raises(
        ValueError, match=sentence.format("random weights", r"online\.words\.weight, .*, online\.text\.bias")
    ):
        start(method, RunFolder(tmp_path), Start())
    save_file({name: whole[name] for name in whole if name != "online.text.bias"}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=sentence.format(r".*part\.safetensors", r"online\.text\.bias")):
        start(method, RunFolder(tmp_path), Start(weights=str(tmp_path / "part.safetensors")))
    save_file(whole, tmp_path / "whole.safetensors")
    assert start(method, RunFolder(tmp_path), Start(weights=str(tmp_path / "whole.safetensors"))).steps == 0


def test_the_own_checkpoint_comes_before_given_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = SmallMethod()
    optimiser = make_optimiser(source, OPTIM)
    source.prd_head.weight.grad = torch.ones(2, 16)
    optimiser.step()
    saved = checkpoint.save(
        tmp_path / "checkpoints",
        step=5,
        model=source.state_dict(),
        optimiser=state_tensors(optimiser),
        progress={"step": 5},
    )
    with caplog.at_level(logging.INFO):
        method, step = _start(tmp_path, Start(weights=str(tmp_path / "absent")))
    assert step == 5 and f"going on from {saved} (5 steps done)" in caplog.text
    assert torch.equal(method.momentum_encoder.image.weight, source.momentum_encoder.image.weight), (
        "a resumed momentum encoder does not move"
    )

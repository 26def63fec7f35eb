"""OpenAI's TorchScript archives of CLIP: read as data, none of their code runs."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from small_clip import CONFIG, SIZES, Holder, state
from torch import Tensor, nn

from tbps.convert.clip import load_clip
from tbps.convert.torchscript import read_torchscript


class Published(nn.Module):
    """What OpenAI's archives hold: the model in half precision, and three numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        model = open_clip.model.CLIP(
            embed_dim=16, vision_cfg=CONFIG["vision_cfg"], text_cfg=CONFIG["text_cfg"], quick_gelu=True
        )
        model.load_state_dict(state(), strict=False)
        for name, part in model.named_children():
            self.add_module(name, part)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(model, name))
        for name, value in (("input_resolution", 32), ("context_length", 10), ("vocab_size", 40)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self.transformer(self.token_embedding(ids) + self.positional_embedding)  # type: ignore[operator]
        return self.visual(image), self.ln_final(words) @ self.text_projection * self.logit_scale  # type: ignore[operator]


def archive(folder: Path) -> Path:
    path = folder / "ViT.pt"
    traced = torch.jit.trace(Published().eval(), (torch.randn(1, 3, 32, 16), torch.zeros(1, 10, dtype=torch.int64)))
    traced.half().save(str(path))
    return path


def test_an_archive_of_openai_is_read_and_none_of_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = archive(tmp_path), state()
    with pytest.raises(RuntimeError, match="TorchScript"):  # torch's own careful reader refuses it
        torch.load(path, weights_only=True)
    monkeypatch.setattr(torch.jit, "load", None)
    found = read_torchscript(path)
    assert found.keys() == {*tensors, "input_resolution", "context_length", "vocab_size"}
    holder = Holder()
    report = load_clip(holder, str(path))
    assert report.missing == report.unplaced == []
    expected = Holder(seed=1)
    for name, tensor in holder.towers.state_dict().items():
        assert torch.allclose(tensor, expected.towers.state_dict()[name], atol=2e-3)  # stored in half precision
    exact = replace(SIZES, quick_gelu=False)
    with pytest.raises(ValueError, match=r"were trained with QuickGELU, expected the exact GELU"):
        load_clip(Holder(exact), str(path))


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_an_archive_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("evil/constants.pkl", pickle.dumps(()))
        file.writestr("evil/data.pkl", pickle.dumps(Runs()))
    with pytest.raises(ValueError, match=r"evil.pt: asks to run builtins.exec, which a file of weights must not"):
        load_clip(Holder(), str(path))


@pytest.mark.parametrize("damage", ["cut", "storage"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name)[: 4 if name.endswith("/data/0") else None])
        path = tmp_path / "new.pt"
    with pytest.raises(ValueError, match=r"\.pt: not a whole torch or safetensors file"):
        load_clip(Holder(), str(path))

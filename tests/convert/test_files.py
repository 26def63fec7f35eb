from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tbps.convert.files import read_foreign

WEIGHTS = {"temp": torch.tensor(0.07), "itm_head.weight": torch.arange(6.0).view(2, 3)}


class RunsCode:
    """A pickle that would create a file when it is read."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def saved(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def check(path: Path, others: list[str]) -> None:
    found = read_foreign(path)
    assert found.tensors.keys() == WEIGHTS.keys() and found.others == others
    assert all(torch.equal(found.tensors[key], WEIGHTS[key]) for key in WEIGHTS)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and found.source == str(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_torch_files_bare_and_wrapped(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    content = WEIGHTS if wrapper is None else {"optimizer": {"state": {}}, wrapper: OrderedDict(WEIGHTS), "epoch": 3}
    check(saved(tmp_path / "with space.pth", content, zipped=zipped), [] if wrapper is None else ["optimizer", "epoch"])


def test_safetensors_whatever_the_name(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.bin")
    check(tmp_path / "a.bin", [])


def test_wrapped_twice_and_by_deepspeed(tmp_path: Path) -> None:
    check(saved(tmp_path / "a.pth", {"model": {"state_dict": WEIGHTS, "step": 3}, "epoch": 1}), ["epoch", "step"])
    check(
        saved(tmp_path / "b.pt", {"module": WEIGHTS, "optimizer": None, "ds_version": "0.19"}), ["optimizer", "ds_version"]
    )


@pytest.mark.parametrize(
    ("strange", "found"),
    [
        (torch.ones(2, 2).to_sparse(), r"sparse \(torch\.sparse_coo\)"),
        (torch.ones(2, 2).to_sparse_csr(), r"sparse \(torch\.sparse_csr\)"),
        (torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), r"quantised \(torch\.qint8\)"),
        (torch.ones(2, dtype=torch.complex64), r"of type torch\.complex64"),
        (torch.ones(2).to(torch.float8_e4m3fn), r"of type torch\.float8_e4m3fn"),
        (torch.ones(2, device="meta"), r"without values \(device meta\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:torch.quantize_per_tensor", "ignore:.*deprecated")
def test_a_tensor_that_is_no_plain_array_is_refused_by_name(tmp_path: Path, strange: torch.Tensor, found: str) -> None:
    path = saved(tmp_path / "a.pth", {"model": {**WEIGHTS, "visual_encoder.norm.weight": strange}})
    with pytest.raises(ValueError, match=rf"a\.pth: visual_encoder\.norm\.weight is {found}, expected dense floating-point"):
        read_foreign(path)


def test_parameters_and_entries_that_are_no_tensors(tmp_path: Path) -> None:
    state = {"temp": torch.nn.Parameter(WEIGHTS["temp"]), "note": "text", "itm_head.weight": WEIGHTS["itm_head.weight"]}
    path = saved(tmp_path / "a.pth", state)
    check(path, ["note"])
    assert not read_foreign(path).tensors["temp"].requires_grad


@pytest.mark.parametrize("package", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_old_training_scripts_store_beside_the_weights(tmp_path: Path, zipped: bool, package: str) -> None:
    content = {
        "model": WEIGHTS,
        "best": np.float64(76.5),
        "epoch": np.int64(3),
        "seen": np.bool_(True),
        "curve": np.arange(3.0, dtype=np.float32),
        "args": argparse.Namespace(config="configs/PS_cuhk_pedes.yaml", lr=1e-5),
    }
    path = saved(tmp_path / "a.pth", content, zipped=zipped)
    if not zipped:
        old = path.read_bytes()
        assert b"numpy._core.multiarray" in old
        path.write_bytes(old.replace(b"cnumpy._core.multiarray\n", f"c{package}.multiarray\n".encode()))
    check(path, ["best", "epoch", "seen", "curve", "args"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    witness = tmp_path / "witness"
    path = saved(tmp_path / "evil.pth", {"model": WEIGHTS, "hook": RunsCode(witness)}, zipped=zipped)
    with pytest.raises(ValueError, match=r"evil\.pth: asks to run posix\.mkdir, which a file of weights must not"):
        read_foreign(path)
    assert not witness.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(RunsCode(witness)))
    with pytest.raises(ValueError, match=r"a\.pkl: (asks to run|not a whole torch)"):
        read_foreign(tmp_path / "a.pkl")
    assert not witness.exists()


def damaged(kind: str, path: Path) -> None:
    if kind == "text":
        path.write_text("epoch, rank-1\n1, 60.1\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif kind == "foreign zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no checkpoint")
    elif kind == "bytes":
        path.write_bytes(bytes(range(256)) * 8)
    elif kind == "image":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(400))
    else:
        saved(path, {"model": {"a": torch.randn(400)}}, zipped="zip" in kind)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * float(kind.split()[-1]))])


DAMAGED = ["text", "empty", "html", "foreign zip", "bytes", "image"]
DAMAGED += [f"truncated {form} {part}" for form in ("zip", "legacy") for part in ("0.01", "0.3", "0.9", "0.99")]


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_whole_file_of_weights_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pth"
    damaged(kind, path)
    with pytest.raises(
        ValueError, match=r"a\.pth: not a whole torch or safetensors file \(\d+ bytes; .*get the file again"
    ) as error:
        read_foreign(path)
    assert "\n" not in str(error.value)


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for size in (4, 40, len(whole) - 3):
        (tmp_path / "a.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.safetensors: not a readable safetensors file .*get it again"):
            read_foreign(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"optimizer": {}, "epoch": 3}, "keys optimizer, epoch"),
        ([1, 2], "a list"),
        ({}, "a dict"),
        ({"model": {}}, "a dict"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object, found: str) -> None:
    with pytest.raises(
        ValueError, match=rf"holds no weights \(found {found}\).*under model or state_dict or model_state_dict or module"
    ):
        read_foreign(saved(tmp_path / "a.pth", content))


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found a folder, expected a file of weights"):
        read_foreign(tmp_path)
    with pytest.raises(ValueError, match="found nothing, expected a file of weights"):
        read_foreign(tmp_path / "absent.pth")

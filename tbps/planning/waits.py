"""Where a GPU would make the host wait, and what it would refuse though tensors without numbers let it pass.

A wait is named by the line of the code that asked for it: the innermost one outside of torch, other packages and this room.
"""

from __future__ import annotations

import sys
import sysconfig
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_iter

REPOSITORY = Path(__file__).parents[2]
_OTHERS = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    sysconfig.get_path("stdlib"),
    str(REPOSITORY / "tbps/nn/host_copy.py"),  # whoever waits for a copy is meant
)
_READS = {
    "_local_scalar_dense": "reads a number of the device: item(), tolist(), float(), int(), bool(), if",
    "is_nonzero": "reads a number of the device",
    "equal": "compares on the device and reads the answer",
    "allclose": "compares on the device and reads the answer",
    "multinomial": "checks its probabilities on the host",
    **dict.fromkeys(("nonzero", "argwhere"), "counts on the device how much is not zero"),
    **dict.fromkeys(("masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive"), "has a shape of values"),
}
"""Operations that read what the device has computed, and how."""
_SAME_TYPE = (
    *("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "convolution", "native_group_norm"),
    *("index_put", "index_put_", "_index_put_impl_", "index_add", "index_add_", "index_copy", "index_copy_"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention", "nll_loss_forward"),
)
"""Operations whose floating-point operands a GPU wants in one type; of others torch's shape functions see to it."""
_NO_BFLOAT16 = (
    *("linalg_cholesky", "linalg_eig", "linalg_householder", "linalg_inv", "linalg_ldl", "linalg_lstsq", "linalg_lu"),
    *("linalg_matrix_exp", "linalg_qr", "linalg_slogdet", "linalg_solve", "linalg_svd", "_linalg_"),
    *("cholesky", "geqrf", "lu_", "ormqr", "triangular_solve", "histc", "histogram", "igamma", "polar", "complex"),
    *("_cdist_", "_pdist_", "_ctc_loss", "_fft_", "special_airy", "special_bessel", "special_erfcx", "special_zeta"),
    *("special_ndtri", "special_log_ndtr", "special_spherical", "special_modified", "special_scaled", "view_as_complex"),
)
"""How names begin of operations without a CUDA kernel for bfloat16, by torch 2.14's own table of operations (OpInfo)."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The host stood still for the device."""

    file: str
    """Relative to the repository where it lies in it."""
    line: int
    function: str
    why: str
    late: bool = False
    """For a copy that it had begun before, so that the device had other work meanwhile."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function}) {self.why}"


def _is_ours(file: str) -> bool:
    return not file.startswith(_OTHERS) and "site-packages" not in file and not file.startswith("<")


def _shown(file: str) -> str:
    return str(Path(file).relative_to(REPOSITORY)) if Path(file).is_relative_to(REPOSITORY) else file


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _here() -> FrameType:
    return next((frame for frame in _frames() if _is_ours(frame.f_code.co_filename)), sys._getframe(1))


def place_here() -> str:
    """file:line (function) of the innermost line of the code that led here."""
    frame = _here()
    return f"{_shown(frame.f_code.co_filename)}:{frame.f_lineno} ({frame.f_code.co_name})"


def place_of(error: BaseException) -> str:
    """file:line (function) of the innermost line of the code that led to `error`; empty where there is none."""
    found, step = "", error.__traceback__
    while step is not None:
        if _is_ours(step.tb_frame.f_code.co_filename):
            found = f"{_shown(step.tb_frame.f_code.co_filename)}:{step.tb_lineno} ({step.tb_frame.f_code.co_name})"
        step = step.tb_next
    return found


class NotOnDevice(Exception):
    """The device would refuse this, or make the host wait. The message begins with file:line (function) of our own code."""


@contextmanager
def naming_lines() -> Iterator[None]:
    """NotOnDevice in place of whatever torch raises, so that the line is named that asked for it."""
    try:
        yield
    except NotOnDevice:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise NotOnDevice(f"{place_of(error)} {type(error).__name__}: {said}") from error


class Waits:
    """Looks at every operation, notes where the host would wait, and refuses what the device would refuse."""

    def __init__(self) -> None:
        self.found: list[Wait] = []
        self._pinned: dict[int, weakref.ref[Any]] = {}

    @property
    def early(self) -> int:
        """How often the host waited for work that it had just queued."""
        return sum(not wait.late for wait in self.found)

    def note(self, why: str, *, late: bool = False) -> None:
        """The host waits here."""
        frame = _here()
        code = frame.f_code
        wait = Wait(file=_shown(code.co_filename), line=frame.f_lineno, function=code.co_qualname, why=why, late=late)
        self.found.append(wait)

    def pin(self, tensor: Tensor) -> Tensor:
        """The tensor, from now on as if its memory were page-locked."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._pinned[key] = weakref.ref(storage, lambda _: self._pinned.pop(key, None))
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether its memory is page-locked."""
        return tensor.untyped_storage()._cdata in self._pinned

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an operation before it runs. RuntimeError: the device has no kernel for these types."""
        name = func.overloadpacket.__name__
        if why := self._why(name, func, args, kwargs):
            self.note(why)
        if name in _SAME_TYPE:
            _refuse_mixed(name, args)
        if name.startswith(_NO_BFLOAT16):
            _refuse_bfloat16(name, args)

    def _why(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Why the host waits in this operation; empty where it does not."""
        if name in _READS:
            return _READS[name]
        if name == "repeat_interleave" and "Tensor" in func._overloadname and kwargs.get("output_size") is None:
            return "has a shape of values: give its output_size"
        if name == "_to_copy":
            return self._copy(args[0], to=kwargs.get("device"), non_blocking=bool(kwargs.get("non_blocking")))
        if name == "copy_":
            non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            return self._copy_into(args[0], args[1], non_blocking=non_blocking)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            return _why_index(name, args)
        if name == "where" and any(isinstance(one, Tensor) and not isinstance(one, FakeTensor) for one in args):
            return "copies a number of the host to the device: give where() a Python number"
        return ""

    def _copy(self, source: Tensor, *, to: Any, non_blocking: bool) -> str:
        if to is None or isinstance(source, FakeTensor) == (torch.device(to).type != "cpu"):
            return ""
        if isinstance(source, FakeTensor):
            return "copies from the device: HostCopy copies while it goes on"
        return self._sent(source, non_blocking=non_blocking)

    def _copy_into(self, target: Tensor, source: Tensor, *, non_blocking: bool) -> str:
        if isinstance(target, FakeTensor) == isinstance(source, FakeTensor):
            return ""
        if isinstance(target, FakeTensor):
            return self._sent(source, non_blocking=non_blocking)
        return "" if non_blocking and self.is_pinned(target) else "copies from the device into memory that is not pinned"

    def _sent(self, source: Tensor, *, non_blocking: bool) -> str:
        if not self.is_pinned(source):
            return "copies to the device from memory that is not pinned: tbps.nn.device_copy pins"
        return "" if non_blocking else "copies to the device and waits: say non_blocking=True"


def _why_index(name: str, args: tuple[Any, ...]) -> str:
    indices = [index for index in args[1] if isinstance(index, Tensor)]
    on_host = [index for index in indices if not isinstance(index, FakeTensor)]
    masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    value = None if name == "index" else args[2]
    a_number = value is not None and value.numel() == 1 and not isinstance(value, FakeTensor)
    accumulates = len(args) > 3 and bool(args[3])
    if masked and a_number and not accumulates and not on_host:
        return ""  # filled on the device
    if masked:
        return "indexes by a mask: counts on the device how much it chooses"
    if on_host:
        return "indexes by a tensor of the host, which is copied to the device"
    return "copies a number of the host to the device" if a_number else ""


def _floating(args: Any) -> list[Tensor]:
    return [one for one in tree_iter(args) if isinstance(one, Tensor) and one.dtype.is_floating_point]


def _refuse_mixed(name: str, args: tuple[Any, ...]) -> None:
    kinds = sorted({str(one.dtype).removeprefix("torch.") for one in _floating(args)})
    if len(kinds) > 1:
        raise RuntimeError(f"{name} is given {' and '.join(kinds)}, expected operands of one type: cast one of them")


def _refuse_bfloat16(name: str, args: tuple[Any, ...]) -> None:
    if any(one.dtype == torch.bfloat16 for one in _floating(args)):
        raise RuntimeError(f"{name} has no CUDA kernel for bfloat16: give it float32, outside of autocast")

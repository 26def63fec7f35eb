"""Tolerances of gradient checks for losses that compute in float32 whatever they are given."""

from typing import Any

FLOAT32: dict[str, Any] = {"eps": 1e-3, "atol": 5e-4, "rtol": 1e-2}
"""Arguments of torch.autograd.gradcheck: steps wide enough that float32 rounding (6e-8) does not drown the difference."""

"""What cards can do at most, as their makers print it: dense products, without sparsity, in TFLOP/s."""

from __future__ import annotations

import torch

PEAKS: dict[str, dict[str, float]] = {
    "H200": {"bf16": 989, "tf32": 494, "fp32": 67},
    "H100 PCIe": {"bf16": 756, "tf32": 378, "fp32": 51},
    "H100": {"bf16": 989, "tf32": 494, "fp32": 67},
    "B200": {"bf16": 2250, "tf32": 1125, "fp32": 75},
    "A100": {"bf16": 312, "tf32": 156, "fp32": 19.5},
    "A40": {"bf16": 150, "tf32": 75, "fp32": 37},
    "L40S": {"bf16": 362, "tf32": 183, "fp32": 92},
    "RTX 4090": {"bf16": 165, "tf32": 83, "fp32": 83},
    "RTX 3090": {"bf16": 71, "tf32": 36, "fp32": 36},
}
"""By a part of the name that CUDA gives; the first that fits counts."""


def tflop_peak(device: torch.device, precision: str) -> float:
    """TFLOP/s of the card in `bf16`, `tf32` or `fp32`; 0 where it is not known, as of every CPU."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak[precision] for part, peak in PEAKS.items() if part in name), 0.0)

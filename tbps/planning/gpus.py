"""What is known of GPUs: memory, arithmetic, links. Makers' figures; what a step reaches of them is `utilisation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card, and the links that it usually has."""

    name: str
    memory_gib: float
    """As the driver shows it."""
    bf16_tflops: float
    """Dense products in bfloat16 with float32 sums (V100: float16, it has no bfloat16)."""
    fp32_tflops: float
    """Plain float32 products, as torch computes them unless TF32 is asked for."""
    link_gb_s: float
    """To the other GPUs of a node, in one direction."""
    network_gb_s: float
    """To other nodes, a GPU's share, in one direction: what such nodes are usually sold with."""
    per_node: int
    """GPUs of a usual node."""
    source: str

    def tflops(self, precision: Precision) -> float:
        """What it computes at most in a run's precision."""
        return self.bf16_tflops if precision == "bf16" else self.fp32_tflops


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="h200",
            memory_gib=139.8,
            bf16_tflops=989,
            fp32_tflops=67,
            link_gb_s=450,
            network_gb_s=50,
            per_node=8,
            source="NVIDIA H200 datasheet (SXM); 400 Gb/s a GPU",
        ),
        Gpu(
            name="h100",
            memory_gib=79.1,
            bf16_tflops=989,
            fp32_tflops=67,
            link_gb_s=450,
            network_gb_s=50,
            per_node=8,
            source="NVIDIA H100 datasheet (SXM, without sparsity); 400 Gb/s a GPU",
        ),
        Gpu(
            name="h100-pcie",
            memory_gib=79.1,
            bf16_tflops=756,
            fp32_tflops=51,
            link_gb_s=64,
            network_gb_s=25,
            per_node=8,
            source="NVIDIA H100 datasheet (PCIe, without sparsity); PCIe 5.0 x16; 200 Gb/s a GPU",
        ),
        Gpu(
            name="a100-80",
            memory_gib=79.2,
            bf16_tflops=312,
            fp32_tflops=19.5,
            link_gb_s=300,
            network_gb_s=25,
            per_node=8,
            source="NVIDIA A100 datasheet (SXM); 200 Gb/s a GPU",
        ),
        Gpu(
            name="a100-40",
            memory_gib=39.4,
            bf16_tflops=312,
            fp32_tflops=19.5,
            link_gb_s=300,
            network_gb_s=25,
            per_node=8,
            source="NVIDIA A100 datasheet (SXM); 200 Gb/s a GPU",
        ),
        Gpu(
            name="v100",
            memory_gib=31.7,
            bf16_tflops=125,
            fp32_tflops=15.7,
            link_gb_s=150,
            network_gb_s=12.5,
            per_node=8,
            source="NVIDIA V100 datasheet (SXM2, 32 GB); 100 Gb/s a GPU",
        ),
        Gpu(
            name="a40",
            memory_gib=44.4,
            bf16_tflops=149.7,
            fp32_tflops=37.4,
            link_gb_s=32,
            network_gb_s=12.5,
            per_node=8,
            source="NVIDIA A40 datasheet; PCIe 4.0 x16; 100 Gb/s a GPU",
        ),
        Gpu(
            name="l40s",
            memory_gib=44.4,
            bf16_tflops=362,
            fp32_tflops=91.6,
            link_gb_s=32,
            network_gb_s=25,
            per_node=8,
            source="NVIDIA L40S datasheet (without sparsity); PCIe 4.0 x16; 200 Gb/s a GPU",
        ),
        Gpu(
            name="rtx3090",
            memory_gib=23.7,
            bf16_tflops=71,
            fp32_tflops=35.6,
            link_gb_s=32,
            network_gb_s=1.25,
            per_node=4,
            source="NVIDIA Ampere GA102 whitepaper, table 9; PCIe 4.0 x16; 10 Gb/s",
        ),
        Gpu(
            name="rtx4090",
            memory_gib=23.6,
            bf16_tflops=165.2,
            fp32_tflops=82.6,
            link_gb_s=32,
            network_gb_s=1.25,
            per_node=4,
            source="NVIDIA Ada whitepaper, appendix A; PCIe 4.0 x16; 10 Gb/s",
        ),
    )
}

_DRIVERS_NAMES: dict[str, str] = {
    "H200": "h200",
    "H100 80GB HBM3": "h100",
    "H100 PCIe": "h100-pcie",
    "A100-SXM4-80GB": "a100-80",
    "A100 80GB PCIe": "a100-80",
    "A100-SXM4-40GB": "a100-40",
    "A100-PCIE-40GB": "a100-40",
    "V100-SXM2-32GB": "v100",
    "V100-SXM2-16GB": "v100",
    "A40": "a40",
    "L40S": "l40s",
    "RTX 3090": "rtx3090",
    "RTX 4090": "rtx4090",
}
"""What the driver calls a card, without the maker's names. Whole names: an H200 NVL, an RTX 3090 Ti or a part of a card
(MIG) computes more or less than its namesake."""


def gpu_named(driver_name: str) -> Gpu | None:
    """The card that the driver calls so, such as "NVIDIA H100 80GB HBM3"; None where nothing is known of it."""
    name = driver_name
    for maker in ("NVIDIA ", "Tesla ", "GeForce "):
        name = name.removeprefix(maker)
    return GPUS[_DRIVERS_NAMES[name]] if name in _DRIVERS_NAMES else None


def gpu_of(name: str, *, memory_gb: float | None = None, tflops: float | None = None) -> Gpu:
    """A known card, or one that memory (GiB) and dense bfloat16 TFLOP/s describe. ValueError: neither."""
    known = GPUS.get(name.lower())
    for option, value in (("--gpu-memory-gb", memory_gb), ("--gpu-tflops", tflops)):
        if value is not None and not value > 0:
            raise ValueError(f"{option} is {value:g}, expected more than 0")
    if known is None and (memory_gb is None or tflops is None):
        raise ValueError(
            f"GPU {name!r} is not known, expected one of {', '.join(sorted(GPUS))}; of another, give memory and arithmetic:"
            " --gpu-memory-gb 48 --gpu-tflops 150 (dense bfloat16)"
        )
    plain = known or GPUS["rtx4090"]  # of its links nothing is known: those of PCIe, the least there are
    return Gpu(
        name=name,
        memory_gib=memory_gb or plain.memory_gib,
        bf16_tflops=tflops or plain.bf16_tflops,
        fp32_tflops=plain.fp32_tflops if tflops is None else tflops / 2,
        link_gb_s=plain.link_gb_s,
        network_gb_s=plain.network_gb_s,
        per_node=plain.per_node,
        source=plain.source if known and memory_gb is None and tflops is None else "as given",
    )

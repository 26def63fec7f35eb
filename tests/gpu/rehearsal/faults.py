"""Faults that a GPU would punish, each a loss's line on features of a batch; `test_planted_faults.py` plants them.

Each marked line is the one that must be named. Shapes: B pairs, E features.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def operand_on_the_host(feature_BE: Tensor) -> Tensor:
    place_B = torch.arange(len(feature_BE))
    return feature_BE.sum(1) * place_B  # here


def reads_a_number(feature_BE: Tensor) -> Tensor:
    return feature_BE / feature_BE.amax().item()  # here


def counts_what_is_not_zero(feature_BE: Tensor) -> Tensor:
    return feature_BE[(feature_BE[:, 0] > 0).nonzero()[:, 0]]  # here


def indexes_by_a_mask(feature_BE: Tensor) -> Tensor:
    return feature_BE[feature_BE[:, 0] > 0]  # here


def makes_a_constant_on_the_device(feature_BE: Tensor) -> Tensor:
    return feature_BE * torch.tensor([0.5], device=feature_BE.device)  # here


def copies_from_memory_that_is_not_pinned(feature_BE: Tensor) -> Tensor:
    weight_B1 = torch.ones(len(feature_BE), 1)
    return feature_BE * weight_B1.to(feature_BE.device, non_blocking=True)  # here


def has_no_bfloat16_kernel(feature_BE: Tensor) -> Tensor:
    return torch.histc(feature_BE.detach().bfloat16(), bins=4, min=-1, max=1)  # here


def multiplies_two_types(feature_BE: Tensor) -> Tensor:
    with torch.autocast("cuda", enabled=False):
        return feature_BE.float() @ feature_BE.bfloat16().T  # here


def has_a_shape_of_values(feature_BE: Tensor) -> Tensor:
    return torch.unique(feature_BE[:, 0])  # here


def branches_on_a_number(feature_BE: Tensor) -> Tensor:
    if feature_BE.mean() > 0:  # here
        return feature_BE
    return -feature_BE


def copies_to_the_host(feature_BE: Tensor) -> Tensor:
    return feature_BE * float(feature_BE.detach().float().cpu().mean())  # here


def waits_for_everything(feature_BE: Tensor) -> Tensor:
    torch.cuda.synchronize()  # here
    return feature_BE


def asks_numpy(feature_BE: Tensor) -> Tensor:
    return feature_BE * float(np.mean(feature_BE.detach().numpy()))  # here


def indexes_by_the_host(feature_BE: Tensor) -> Tensor:
    return feature_BE[torch.arange(2)]  # here


class ReadsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, feature_BE: Tensor) -> Tensor:
        return feature_BE * 2

    @staticmethod
    def backward(ctx: object, gradient_BE: Tensor) -> Tensor:
        return gradient_BE * float(gradient_BE.sum() > 0)  # here


def reads_in_backward(feature_BE: Tensor) -> Tensor:
    return ReadsInBackward.apply(feature_BE)


def sends_on_the_first_process_alone(feature_BE: Tensor) -> Tensor:
    if dist.get_rank() == 0:
        dist.all_reduce(feature_BE.detach().clone())  # here
    return feature_BE


def sends_more_on_the_last_process(feature_BE: Tensor) -> Tensor:
    rows = 1 + (dist.get_rank() == dist.get_world_size() - 1)
    dist.all_reduce(feature_BE.detach()[:rows].clone())  # here
    return feature_BE

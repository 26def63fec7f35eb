from __future__ import annotations

import sys

from small_world import call_anew

_SCRIPT = """
import sys
from contextlib import nullcontext
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tbps.training.uncompiled import uncompiled, uncompiled_ddp

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

def trained(kind, around):
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    optimiser = kind(layer.parameters(), lr=0.1, fused=True)
    with around:
        model = DistributedDataParallel(layer)
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimiser.step()
    return layer.weight

kinds = (torch.optim.Adam, torch.optim.AdamW)
found = [trained(uncompiled(kind), uncompiled_ddp()) for kind in kinds]
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules], [uncompiled(kind).__name__ for kind in kinds])
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item(), "torch._dynamo" in sys.modules)
with uncompiled_ddp():
    print(torch._dynamo is sys.modules["torch._dynamo"])
print([torch.equal(*pair) for pair in zip(found, [trained(kind, nullcontext()) for kind in kinds])])
"""


def test_adam_and_ddp_train_as_ever_without_the_compiler_and_it_is_there_when_asked_for() -> None:
    done = call_anew(sys.executable, "-c", _SCRIPT)
    told = ["[] ['Adam', 'AdamW']", "2.0 True", "True", "[True, True]"]
    assert done.stdout.splitlines() == told, done.stdout + done.stderr

"""What the process that `ready_python` forks has imported, without looking for garbage among it."""

from __future__ import annotations

import gc
import importlib

gc.disable()

import torch  # noqa: E402

MODULES = [
    *("tbps.run", "torch._dynamo", "torch.distributed.optim", "tbps.reporting.report", "launch.rank"),
    *("torch.distributed.launcher.api", "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend"),
]
"""An optimiser, DDP, the report and the launcher import the others when they are made."""
BY_RUNS = ["ftfy", "regex", "tyro", "tyro._cli", "transformers"]
"""What a run imports when it reads its command line, its captions and its launch settings."""
BY_ZERO = ["setuptools", "deepspeed.ops", "deepspeed.runtime.zero.stage3", "deepspeed.runtime.zero.muon.muon_optimizer"]
"""What a rank under ZeRO imports: the last one brings torch's code generator, used or not."""

# DeepSpeed chooses its device when it is imported; where there is a GPU, every rank imports it by itself.
for name in [*MODULES, *BY_RUNS, *([] if torch.cuda.is_available() else BY_ZERO)]:
    importlib.import_module(name)
gc.freeze()
gc.enable()

"""What the process that `ready_python` forks has imported and read, without looking for garbage among it."""

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
BY_RUNS = ["ftfy", "regex", "tyro", "tyro._cli", "transformers", "numpy.ma", "multiprocessing.sharedctypes"]
"""What a run imports when it reads its command line, its captions and its launch settings, and when it packs them."""
METHODS = [
    *(f"tbps.methods.albef.{name}" for name in ("albef", "rasa", "mars", "aga", "laip", "aptm")),
    *(f"tbps.methods.clip.{name}" for name in ("clip", "irra", "bilma", "bamg")),
]
BY_ZERO = [
    *("setuptools", "deepspeed.ops", "deepspeed.runtime.zero.stage3", "deepspeed.runtime.zero.muon.muon_optimizer"),
    *("deepspeed.module_inject.auto_ep_layer", "deepspeed.runtime.superoffload.superoffload_stage3"),
    *("deepspeed.ops.op_builder.all_ops", "transformers.integrations.deepspeed", "tbps.training.zero"),
]
"""What a rank under ZeRO imports: the fourth brings torch's code generator, used or not."""

# DeepSpeed chooses its device when it is imported; where there is a GPU, every rank imports it by itself.
for name in [*MODULES, *BY_RUNS, *METHODS, *([] if torch.cuda.is_available() else BY_ZERO)]:
    importlib.import_module(name)

from tbps.recipe_command import read_overrides  # noqa: E402
from tbps.reporting.report import _template  # noqa: E402
from tbps.text.clip_tokens import _open_clip  # noqa: E402

# What every process of a run reads anew: its command line, CLIP's merges, the page of the report.
read_overrides(importlib.import_module("recipes.clip").tiny, [], program="clip")
_open_clip()
_template()
gc.freeze()
gc.enable()

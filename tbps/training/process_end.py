"""How one of several processes ends: at once, when all is done and said."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """End this process with `status`, if it is one of several without what an interpreter does at its end.

    Threads of gloo may still hold tensors then, whose end needs the interpreter: that has been seen to abort (SIGABRT) a
    process whose run was complete.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise SystemExit(status)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

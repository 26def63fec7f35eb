"""A recipe in a process whose compiled parts are traced, and run without waiting for a code generator: `FILE recipe ...`."""

from __future__ import annotations

import runpy
import sys

from tbps.training import compilation

if __name__ == "__main__":
    compilation.BACKEND = "aot_eager"
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")

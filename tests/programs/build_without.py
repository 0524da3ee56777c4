"""Runs `setup.py -q build_ext` after taking something away.

build_without.py torch|nvcc|new-setuptools|nothing
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
missing = sys.argv[1]
if missing == "torch":
    sys.modules["torch"] = None
elif missing == "nvcc":
    sys.path.insert(0, str(ROOT / "csrc"))
    import toolchain

    toolchain.find_nvcc = lambda: None
elif missing == "new-setuptools":
    import setuptools

    setuptools.__version__ = "65.5.0"

sys.argv[1:] = ["-q", "build_ext"]
runpy.run_path(str(ROOT / "setup.py"))

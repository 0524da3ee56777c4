"""Runs `setup.py -q build_ext` after taking something away.

build_without.py torch|nvcc|new-setuptools|compiling|nothing [OPTION OF build_ext ...]

Several are joined by +. Without compiling, it stops when everything is decided.
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "csrc"))
import toolchain  # noqa: E402

missing = sys.argv[1].split("+")
if "torch" in missing:
    sys.modules["torch"] = None
if "nvcc" in missing:
    toolchain.find_nvcc = lambda: None
if "compiling" in missing:
    toolchain.Ninja.__enter__ = lambda ninja: sys.exit("nothing is compiled")
if "new-setuptools" in missing:
    import setuptools

    setuptools.__version__ = "65.5.0"

sys.argv[1:] = ["-q", "build_ext", *sys.argv[2:]]
runpy.run_path(str(ROOT / "setup.py"))

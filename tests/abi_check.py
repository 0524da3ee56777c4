"""``make abi-check``: does one build of the native library serve several releases of torch?

Installs the wheel in dist/ beside each release, in a virtual environment of its own under build/abi/, and
compares the compiled CPU kernels with eager PyTorch there. Downloads some gigabytes on the first run.

    python tests/abi_check.py [TORCH_VERSION ...]
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ["2.10.0", "2.11.0", "2.13.0", "newest"]  # the oldest supported, the pinned one, later ones

CHECK = """
import torch, frs_kernels as frs

for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    torch.manual_seed(0)
    make = lambda channels: [torch.randn(2, channels, size, size + 1).to(dtype) for size in (9, 4)]
    results = {}
    x, y, s, t = make(16), make(16), make(12), make(12)
    for backend in ("native", "eager"):
        feats = [v.clone().requires_grad_() for v in x]
        logits = [v.clone().requires_grad_() for v in s]
        loss = frs.frs_loss(feats, y, t, logits, backend=backend)
        loss.total.backward()
        results[backend] = [loss.total.detach()] + [v.grad for v in feats + logits]
    for ours, theirs in zip(results["native"], results["eager"]):
        torch.testing.assert_close(ours, theirs)
cuda = frs.library.load_native("cuda") if torch.version.cuda else "a torch without CUDA"
print(f"torch {torch.__version__}: CPU kernels agree with eager; CUDA library: {cuda or 'loads'}")
"""


def check(release: str, wheel: Path) -> bool:
    """Installs torch ``release`` and the wheel, runs CHECK; whether it passed."""
    folder = ROOT / "build" / "abi" / release
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        venv.create(folder, with_pip=True)
    torch = "torch" if release == "newest" else f"torch=={release}"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, torch, "numpy", "setuptools"], check=True)
    subprocess.run([*install, "--force-reinstall", "--no-deps", str(wheel)], check=True)
    return subprocess.run([python, "-c", CHECK], cwd=folder).returncode == 0


def main(releases: list[str]) -> int:
    wheels = sorted((ROOT / "dist").glob("frs_kernels-*-linux_*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        print("no native wheel in dist/: run `make wheel` first", file=sys.stderr)
        return 2
    failed = [release for release in releases if not check(release, wheels[-1])]
    print(f"{wheels[-1].name}: " + (f"fails with torch {', '.join(failed)}" if failed else "serves them all"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or RELEASES))

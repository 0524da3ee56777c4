"""Time and peak memory of a distillation step: Ultralytics' own loss beside ours, in one run.

    python examples/ultralytics_measure_step.py --student yolo26n.yaml --teacher yolo26s.yaml --batch 16

Steps of the two alternate, so that both see the same clock speeds and neighbours; times are medians with
the quartiles beside them. Memory is the peak above what is held between steps: counted by the CUDA
allocator, and on a CPU (where PyTorch does not count) for a process of its own (Linux). Both networks
start from random numbers: that changes neither.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.tasks import DetectionModel

from frs_kernels.integrations.ultralytics import use_frs_kernels

# For glibc's malloc: what is freed goes back to the system at once, so that held memory is used memory.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
KINDS = {"ultralytics": contextlib.nullcontext, "frs_kernels": use_frs_kernels}


class Step:
    """Forward, loss, backward and optimiser of one batch that stays the same."""

    def __init__(self, options: argparse.Namespace):
        torch.manual_seed(0)
        self.device = torch.device(options.device)
        student, teacher = (
            DetectionModel(config, nc=options.classes, verbose=False).to(self.device)
            for config in (options.student, options.teacher)
        )
        student.args = get_cfg(overrides={"imgsz": options.imgsz})
        self.model = DistillationModel(teacher, student).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)
        dtype = getattr(torch, options.amp)
        self.amp = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        count = 8 * options.batch
        self.batch = {
            "img": torch.rand(options.batch, 3, options.imgsz, options.imgsz, device=self.device),
            "cls": torch.randint(0, options.classes, (count, 1), device=self.device).float(),
            "bboxes": torch.rand(count, 4, device=self.device) * 0.4 + 0.2,
            "batch_idx": torch.arange(options.batch, device=self.device).repeat_interleave(8).float(),
        }

    def __call__(self, kind: str) -> tuple[float, int]:
        """(seconds, peak bytes above the start) of one step; no bytes on a CPU."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        with KINDS[kind](), self.amp:
            loss = self.model(dict(self.batch))[0].sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not on_gpu:
            return time.perf_counter() - start, 0
        torch.cuda.synchronize()
        return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before


def peak_of_a_process(kind: str, options: argparse.Namespace, answer) -> None:
    """How many bytes above what it holds this process comes to hold in a step, the third one (Linux)."""
    step = Step(options)
    for _ in range(2):
        step(kind)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = held("VmRSS")
    step(kind)
    answer.put(held("VmHWM") - before)


def held(name: str) -> int:
    """Bytes of this process, from a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="yolo26n.yaml")
    parser.add_argument("--teacher", default="yolo26s.yaml")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--amp", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    step = Step(options)
    seconds, peaks = ({kind: [] for kind in KINDS} for _ in range(2))
    for number in range(options.steps + 2):
        for kind in KINDS:
            spent, peak = step(kind)
            if number >= 2:  # the first ones allocate
                seconds[kind].append(spent)
                peaks[kind].append(peak)
    if options.device == "cpu":
        os.environ.update(GIVE_BACK)
        context = multiprocessing.get_context("spawn")
        for kind in KINDS:
            answer = context.Queue()
            process = context.Process(target=peak_of_a_process, args=(kind, options, answer))
            process.start()
            peaks[kind] = [answer.get()]
            process.join()
    print(", ".join(f"{name} {value}" for name, value in vars(options).items()))
    for kind in KINDS:
        low, middle, high = (1e3 * value for value in statistics.quantiles(seconds[kind], n=4))
        print(f"{kind:12} {middle:9.1f} ms ({low:.1f} to {high:.1f})  {max(peaks[kind]) / 2**20:9.1f} MiB")


if __name__ == "__main__":
    main()

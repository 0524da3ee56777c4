"""Time and peak memory of a distillation step with Ultralytics' loss and with the fused loss, in one run.

    python examples/ultralytics_measure_step.py --student yolo26n.yaml --teacher yolo26s.yaml --batch 16
    python examples/ultralytics_measure_step.py --largest --json steps.json     # a GPU's largest batches too

Steps of the two alternate, so that clock speeds and other load on the machine affect both alike. Times are
medians with quartiles, on a GPU between two events. Memory is the peak above what is allocated between steps:
counted by the CUDA allocator, or on a CPU, where PyTorch does not count it, by the Linux kernel in a process
for each loss. Both networks have random weights, and the learning rate is 0; neither changes time or memory.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import ultralytics
from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.tasks import DetectionModel

from frs_kernels.integrations.ultralytics import use_frs_kernels

# For glibc's malloc: return freed memory to the system immediately, so that only memory in use is counted.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
KINDS = {"ultralytics": contextlib.nullcontext, "frs_kernels": use_frs_kernels}
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "unable to find an engine")  # PyTorch, cuBLAS, cuDNN
MAX_IMAGES = 1024  # the largest batch that --largest tries


class Training:
    """Training steps, all on the same batch."""

    def __init__(self, options: argparse.Namespace):
        torch.manual_seed(0)
        self.options, self.device = options, torch.device(options.device)
        student, teacher = (
            DetectionModel(config, nc=options.classes, verbose=False).to(self.device)
            for config in (options.student, options.teacher)
        )
        student.args = get_cfg(overrides={"imgsz": options.imgsz})
        self.model = DistillationModel(teacher, student).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)
        dtype = getattr(torch, options.amp)
        self.amp = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        self.batch = {}

    def load(self, images: int) -> None:
        """Makes a batch of this many images, with eight objects each."""
        self.batch = {}
        self.free()
        size, boxes = self.options.imgsz, 8 * images
        self.batch = {
            "img": torch.rand(images, 3, size, size, device=self.device),
            "cls": torch.randint(0, self.options.classes, (boxes, 1), device=self.device).float(),
            "bboxes": torch.rand(boxes, 4, device=self.device) * 0.4 + 0.2,
            "batch_idx": torch.arange(images, device=self.device).repeat_interleave(8).float(),
        }

    def free(self) -> None:
        """Frees what a step, even a failed one, leaves allocated: captured features hold its whole graph."""
        self.optimizer.zero_grad()
        for features in (self.model._student_feats, self.model._teacher_feats):
            features.clear()
        gc.collect()
        torch.cuda.empty_cache()  # does nothing without a GPU

    def step(self, kind: str) -> tuple[float, int]:
        """(seconds, peak bytes above the start) of forward, loss, backward, optimizer; 0 bytes on a CPU."""
        with KINDS[kind]():
            return self._step_on_gpu() if self.device.type == "cuda" else self._step_on_cpu()

    def _step_on_cpu(self) -> tuple[float, int]:
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start, 0

    def _step_on_gpu(self) -> tuple[float, int]:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(4_000_000)  # 2 ms in which the host runs ahead, as it does in a training
        start.record()
        self._run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, torch.cuda.max_memory_allocated() - before

    def _run(self) -> None:
        with self.amp:
            loss = self.model(dict(self.batch))[0].sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measured(training: Training, images: int, steps: int, *, tight: bool = False) -> dict[str, dict]:
    """Seconds and bytes per step of each kind, with alternating steps.

    ``tight`` is for a batch that fills the memory. The allocator would have to free memory of the other
    kind's steps during a timed step, so that memory is freed before, and an untimed step comes first.
    """
    training.load(images)
    seconds, peaks = ({kind: [] for kind in KINDS} for _ in range(2))
    for number in range(steps if tight else steps + 2):
        for kind in KINDS:
            if tight:
                training.free()
                training.step(kind)
            spent, peak = training.step(kind)
            if tight or number >= 2:  # the first two allocate
                seconds[kind].append(spent)
                peaks[kind].append(peak)
    rows = {}
    for kind in KINDS:
        low, middle, high = statistics.quantiles(seconds[kind], n=4)
        rows[kind] = {"median": middle, "q1": low, "q3": high, "peak_bytes": max(peaks[kind])}
    return rows


def fits(training: Training, kind: str, images: int) -> bool:
    """Whether steps of this many images fit into the GPU's memory."""
    try:
        training.load(images)
        for _ in range(2):
            training.step(kind)
        return True
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
    finally:
        training.free()
    return False


def largest(fit: Callable[[int], bool], start: int) -> int:
    """The largest batch that fits, to within a 64th: doubles ``start`` while it fits, then bisects."""
    fitting, too_large, images = 0, MAX_IMAGES + 1, start
    while True:
        if fit(images):
            fitting = images
        else:
            too_large = images
        if too_large - fitting <= max(1, fitting // 64):
            return fitting
        images = 2 * fitting if 0 < 2 * fitting < too_large else (fitting + too_large) // 2


def peaks_of_processes(options: argparse.Namespace) -> dict[str, int]:
    """For each kind, the peak bytes of a step above the memory before it, in a separate process."""
    os.environ.update(RETURN_FREED_MEMORY)
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for kind in KINDS:
        results = context.Queue()
        process = context.Process(target=peak_of_this_process, args=(kind, options, results))
        process.start()
        peaks[kind] = results.get()
        process.join()
    return peaks


def peak_of_this_process(kind: str, options: argparse.Namespace, results) -> None:
    training = Training(options)
    training.load(options.batch)
    for _ in range(2):
        training.step(kind)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = memory("VmRSS")
    training.step(kind)
    results.put(memory("VmHWM") - before)


def memory(name: str) -> int:
    """A figure about this process's memory in bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


class Report:
    """The results, printed and written to the JSON file one by one: an interrupted run keeps what it has."""

    def __init__(self, options: argparse.Namespace):
        self.file = options.json
        arguments = {name: value for name, value in vars(options).items() if name != "json"}
        name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        versions = {"torch": torch.__version__, "ultralytics": ultralytics.__version__}
        self.content = {"options": arguments, "device": name, **versions, "largest_batch": {}, "steps": []}
        print(", ".join(f"{name} {value}" for name, value in arguments.items()))

    def add_steps(self, images: int, rows: dict[str, dict]) -> None:
        for kind, row in rows.items():
            low, middle, high = (1e3 * row[name] for name in ("q1", "median", "q3"))
            spread = f"{middle:9.1f} ms ({low:.1f} to {high:.1f})"
            print(
                f"{images:4} images  {kind:12} {spread:34} {row['peak_bytes'] / 2**20:9.1f} MiB", flush=True
            )
            self.content["steps"].append({"images": images, "kind": kind, **row})
        self._write()

    def add_largest(self, kind: str, images: int) -> None:
        print(f"largest batch  {kind:12} {images} images", flush=True)
        self.content["largest_batch"][kind] = images
        self._write()

    def _write(self) -> None:
        if self.file:
            self.file.write_text(json.dumps(self.content, indent=1) + "\n")


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
    parser.add_argument(
        "--largest",
        action="store_true",
        help="also find the largest batch that fits into GPU memory",
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.largest and options.device != "cuda":
        parser.error("--largest needs a GPU")

    report, training = Report(options), Training(options)
    rows = measured(training, options.batch, options.steps)
    if options.device == "cpu":
        for kind, peak in peaks_of_processes(options).items():
            rows[kind]["peak_bytes"] = peak
    report.add_steps(options.batch, rows)
    if options.largest:
        batches = {}
        for kind in KINDS:
            # The two results are close: the second search starts from the first.
            start = max(batches.values(), default=options.batch) or 1
            batches[kind] = largest(lambda images, kind=kind: fits(training, kind, images), start)
            report.add_largest(kind, batches[kind])
        both = min(batches.values())
        report.add_steps(both, measured(training, both, max(4, options.steps // 4), tight=True))


if __name__ == "__main__":
    main()

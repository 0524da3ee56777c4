"""The demo `frs-train demo`: trains two small students, one without and one with FRS, and compares them.

Both students start from the same weights with the teacher's head, and see the same images in the same order
for the same number of iterations; one of them also learns from the teacher's features and logits. The teacher
ships with the package (`digits_teacher.pt`, weights in float16), because training it takes longer than a demo
should. `python -m frs_train.demo OUT` makes the data set, trains the teacher, and writes the file.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from frs_train import distributed
from frs_train.config import DataConfig, DetectorConfig, DistillConfig, RunConfig, TrainConfig
from frs_train.data.digits import make_digits
from frs_train.evaluation.coco_metrics import METRICS, evaluate
from frs_train.evaluation.complexity import parameter_count
from frs_train.evaluation.pictures import write_pictures
from frs_train.files import write_atomically
from frs_train.log import Log
from frs_train.report.figures import curves
from frs_train.report.page import write_report
from frs_train.report.runs import read_runs
from frs_train.text import markdown
from frs_train.training import checkpoint
from frs_train.training.checkpoint import read_detector
from frs_train.training.datasets import open_eval
from frs_train.training.run import fit

TEACHER = Path(str(files("frs_train"))) / "digits_teacher.pt"
SIZE = 96
TEACHER_DETECTOR = DetectorConfig(
    family="fcos", backbone="resnet18", backbone_width=0.5, fpn_width=64, head_convs=2, min_size=(SIZE,)
)
TEACHER_TRAIN = TrainConfig(
    iterations=3500,
    batch_size=16,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=0.05,
    schedule="one-cycle",
    clip=10.0,
    eval_every=1000,
    checkpoint_every=250,
    log_every=50,
)
STUDENT_DETECTOR = replace(TEACHER_DETECTOR, backbone="resnet10", backbone_width=0.25)
STUDENT_TRAIN = replace(TEACHER_TRAIN, batch_size=8, eval_every=250, lr_warmup=100)
DISTILL = DistillConfig(feat_weight=0.003, head_weight=0.3, warmup_iters=100, inherit_head=True)
ARMS = {"student": "none", "student-frs": "frs"}


def demo(out: Path, iterations: int, seed: int, log: Log) -> dict[str, dict[str, Any]]:
    """Runs the demo in the folder `out` and returns the results by name; a second call resumes it."""
    data = digits(out / "digits", train=1600, val=300, seed=seed, log=log)
    results = {"teacher": evaluate_teacher(data, log)}
    train = replace(STUDENT_TRAIN, iterations=iterations, seed=seed)
    for name, method in ARMS.items():
        log.say(f"{name}: {iterations} iterations, distillation: {method}.")
        distill = replace(DISTILL, method=method, teacher=str(TEACHER))
        run = RunConfig(out / name, STUDENT_DETECTOR, data, train, distill, resume=True)
        results[name] = fit(run, log)
    write_results(out, results, data, log)
    return results


def digits(folder: Path, train: int, val: int, seed: int, log: Log) -> DataConfig:
    """The digits data set in `folder`, created if it does not exist."""
    if not (folder / "val.json").exists():
        log.say(f"Making {train} + {val} images of real digit scans in composed scenes in {folder}.")
        make_digits(folder, train, val, SIZE, seed)
    return DataConfig(
        folder / "train.json", folder / "images", folder / "val.json", folder / "images", flip=0.0, jitter=0.2
    )


def evaluate_teacher(data: DataConfig, log: Log) -> dict[str, Any]:
    """The teacher's metrics on the validation images."""
    device = distributed.pick_device("auto")
    detector, classes = read_detector(str(TEACHER), log)
    validation = open_eval(data.val_annotations, data.val_images, classes, "the teacher", log)
    scores = evaluate(detector.to(device), validation, device)
    return {
        **scores,
        "parameters": parameter_count(detector),
        "seconds_per_iteration": None,
    }


def write_results(out: Path, results: dict[str, dict[str, Any]], data: DataConfig, log: Log) -> None:
    """Writes the table (results.md, results.json), curves, pictures of masks and the report; prints the table
    and the comparison."""
    verdict = compare(results)
    rows = [[name, *cells(result)] for name, result in results.items()]
    log.console.print(as_table(rows))
    log.say(verdict)
    text = markdown([["", *COLUMNS], *rows])
    write_atomically(out / "results.md", f"{text}\n\n{verdict}\n".encode())
    write_atomically(out / "results.json", json.dumps(results, indent=2).encode())
    detector, classes = read_detector(str(TEACHER), log)
    validation = open_eval(data.val_annotations, data.val_images, classes, "the teacher", log)
    write_pictures(detector, validation, out / "masks", torch.device("cpu"), limit=4, replace=True)
    runs = [out / name for name in ARMS]
    write_report(runs, out / "report.html")
    curves(read_runs(runs)).savefig(out / "curves.png")
    log.say(f"Wrote results.md, curves.png, masks/*.png and report.html to {out}.")


COLUMNS = ("mAP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "parameters", "s/iteration")


def cells(result: dict[str, Any]) -> list[str]:
    """A result as texts in the order of `COLUMNS`; AP in per cent."""
    scores = [result[name] for name in list(METRICS)[:6]]
    seconds = result["seconds_per_iteration"]
    return [
        *("-" if score is None else f"{100 * score:.1f}" for score in scores),
        f"{result['parameters']:,}",
        "-" if seconds is None else f"{seconds:.3f}",
    ]


def as_table(rows: list[list[str]]) -> Table:
    """The rows as a table for the terminal."""
    table = Table(Column("", no_wrap=True), *COLUMNS, padding=(0, 0))
    for line in rows:
        table.add_row(*line)
    return table


def compare(results: dict[str, dict[str, Any]]) -> str:
    """The comparison of the two students in one sentence."""
    alone, taught = (100 * results[name]["AP"] for name in ARMS)
    gain = taught - alone
    word = "helped" if gain >= 0.5 else "hurt" if gain <= -0.5 else "made almost no difference"
    return f"With FRS {taught:.1f} mAP, without {alone:.1f} ({gain:+.1f}): on this run FRS {word}."


def make_teacher(out: Path, log: Log) -> Path:
    """Trains the shipped teacher on a new digits data set; returns the path of its `digits_teacher.pt`."""
    data = digits(out / "digits", train=6000, val=300, seed=0, log=log)
    fit(RunConfig(out / "run", TEACHER_DETECTOR, data, TEACHER_TRAIN, resume=True), log)
    return pack(out / "run", out / TEACHER.name, log)


def pack(run: Path, path: Path, log: Log) -> Path:
    """Writes the newest checkpoint of a run for detection only: weights in float16, nothing for resuming."""
    content = checkpoint.read(run, log.warn)
    model = {k: v.half() if v.is_floating_point() else v for k, v in content["model"].items()}
    config = {**content["config"], "out": "", "data": DataConfig().__dict__}
    small = {k: content[k] for k in ("format", "classes", "iteration")} | {"config": config, "model": model}
    buffer = io.BytesIO()
    torch.save(small, buffer)
    write_atomically(path, buffer.getvalue())
    return path


if __name__ == "__main__":
    print(make_teacher(Path(sys.argv[1]), Log()))

"""The metrics of a run: `metrics.jsonl`, lines in the log and, by option, TensorBoard.

Each line of `metrics.jsonl` is one JSON object with `kind` and `iteration` (see `run_files`):
    train   lr, loss, losses {name: value}, seconds_per_iteration,
            memory_mb (peak, of the GPU if any; or null),
            levels {feature_level_0: value, ...}: what each level that student and teacher share, finest
            first, contributes to the terms of the distillation (see `TERMS`),
            ratios {frs_feature: value, feature_level_0: value, ..., detection_level_0: value, ...}: the
            gradient of each term in the student's features, compared with that of the detection losses (see
            `gradient_ratios`),
            warnings {term: text}, on the first line that gives rise to one (see `balance`)
    eval    AP, AP50, AP75, AP_S, AP_M, AP_L, AR (fractions or null), classes {name: AP}, max_detections
            (detections per image that are scored)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from frs_train import distributed
from frs_train.errors import UserError
from frs_train.evaluation.coco_metrics import describe
from frs_train.files import write_atomically
from frs_train.log import Log
from frs_train.training.balance import Balance
from frs_train.training.run_files import read_metrics

if TYPE_CHECKING:
    from frs_train.data.dataset import CocoDetection
    from frs_train.detectors import Detector


class Metrics:
    """Appends to `metrics.jsonl` (and TensorBoard); only process 0 writes."""

    def __init__(self, folder: Path, log: Log, total: int, tensorboard: bool, balance: Balance | None = None):
        self.path, self.log, self.total = folder / "metrics.jsonl", log, total
        self.balance = balance or Balance(None)
        self.writer = (
            _summary_writer(folder / "tensorboard") if tensorboard and distributed.rank() == 0 else None
        )
        self.evaluated: dict[int, dict[str, Any]] = {}  # scores by iteration

    def forget_after(self, iteration: int) -> None:
        """Removes the lines after `iteration`, which a resumed run rewrites, and an incomplete last line."""
        kept: list[dict[str, Any]] = []
        if distributed.rank() == 0 and self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["iteration"] <= iteration]
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.balance.named = {cause for line in kept for cause in line.get("warnings", {})}
        lines = [line for line in distributed.gather(kept)[0] if line["kind"] == "eval"]
        names = ("kind", "iteration")
        self.evaluated = {e["iteration"]: {k: v for k, v in e.items() if k not in names} for e in lines}

    def train(self, iteration: int, record: dict[str, Any]) -> dict[str, str]:
        """Writes a `train` line, with new warnings; returns its `text` and `rate` for a progress bar."""
        warnings = self.balance.judge(iteration, record)
        line = {"kind": "train", "iteration": iteration, **record}
        self._write(line | {"warnings": warnings} if warnings else line)
        self._scalars("loss", record["losses"], iteration)
        self._scalars("level", record["levels"], iteration)
        self._scalars("ratio", record["ratios"], iteration)
        self._scalars("train", {k: record[k] for k in ("loss", "lr", "seconds_per_iteration")}, iteration)
        parts = "  ".join(
            _loss_text(name, value, record["ratios"]) for name, value in record["losses"].items()
        )
        text, seconds = f"loss {record['loss']:.4f}  {parts}", record["seconds_per_iteration"]
        rate = f"{seconds:.3f} s/it"
        if not self.log.console.is_terminal:
            left = int((self.total - iteration) * seconds)
            text += f"  lr {record['lr']:.2e}"
            self.log.say(f"[{iteration}/{self.total}]  {text}  {rate}  {left // 60}:{left % 60:02d} left")
        for warning in warnings.values():
            self.log.warn(warning)
        return {"text": text, "rate": rate}

    def is_best(self, record: dict[str, Any]) -> bool:
        """Whether the AP of `record` is higher than that of every earlier evaluation."""
        before = [scores["AP"] for scores in self.evaluated.values() if scores["AP"] is not None]
        return record["AP"] is not None and record["AP"] > max(before, default=-1.0)

    def eval(self, iteration: int, record: dict[str, Any], best: bool) -> None:
        """Writes an `eval` line."""
        self.evaluated[iteration] = record
        self._write({"kind": "eval", "iteration": iteration, **record})
        self._scalars("eval", {k: v for k, v in record.items() if isinstance(v, float)}, iteration)
        self.log.say(f"[{iteration}/{self.total}]  {describe(record)}{'  (best so far)' if best else ''}")

    def masks(self, iteration: int, detector: Detector, dataset: CocoDetection, device: torch.device) -> None:
        """Writes mask pictures to TensorBoard, if it is on."""
        if self.writer:
            from frs_train.evaluation.pictures import to_tensorboard

            to_tensorboard(self.writer, detector, dataset, device, iteration)

    def _write(self, record: dict[str, Any]) -> None:
        if distributed.rank():
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Free some space, and "
                "continue with --resume."
            ) from None

    def _scalars(self, group: str, values: dict[str, float], iteration: int) -> None:
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, iteration)


def _loss_text(name: str, loss: float, ratios: dict[str, float]) -> str:
    ratio = f" (ratio {ratios[name]:.2g})" if name in ratios else ""
    return f"{name} {loss:.4f}{ratio}"


def _summary_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs the extra `tensorboard`: pip install 'frs-kernels[tensorboard]'."
        ) from None
    return SummaryWriter(str(folder))

"""Warnings about distillation weights that do not fit the data, from the ratios of gradients."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

from frs_train.config import DistillConfig
from frs_train.training.ratios import DETECTION_LEVEL
from frs_train.training.terms import TERMS

WINDOW = 3  # lines; with their median, one odd batch raises no warning
STRONG = 20.0
"""A term whose gradient exceeds this many times that of the detection losses is too strong. In few and short
trials, the best weights had ratios of 1 to 8, and ratios above 20 were worse: docs/recipes.md, "Choosing the
weights", has the figures. Values of losses separate them less well, because a loss may be flat."""
HEALTHY = 5.0  # the ratio that the advice aims at
UNLEARNED = 0.1  # norm of the detection gradient in a level / that of all: the level learns next to nothing
STRAY = 0.5  # share of a term in such levels above which the divisor, and not only the weight, is to blame
WEIGHTS = {
    "frs_feature": "feat_weight",
    "frs_head": "head_weight",
    "ld": "ld_weight",
    "cwd": "cwd_weight",
    "kd": "kd_weight",
}
WITHOUT_MASK = ("cwd",)  # terms that --normalizer does not concern


class Balance:
    """Judges the lines of a run's metrics one after the other, and names each term that is too strong once.

    Lines of the warm-up do not count.
    """

    def __init__(self, distill: DistillConfig | None):
        self.distill = distill
        self.lines: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self.named: set[str] = set()

    def judge(self, iteration: int, record: dict[str, Any]) -> dict[str, str]:
        """New warnings by term; `record` is a `run_files.TrainLine`."""
        if not self.distill or iteration <= self.distill.warmup_iters or not record["ratios"]:
            return {}
        self.lines.append(record["ratios"])
        if len(self.lines) < WINDOW:
            return {}
        strong = [term for term in TERMS if self._typical(term) > STRONG and term not in self.named]
        self.named.update(strong)
        return {term: self._text(term, self.distill) for term in strong}

    def _text(self, term: str, distill: DistillConfig) -> str:
        ratio, name = self._typical(term), WEIGHTS[term]
        advice = f"--{name.replace('_', '-')} {getattr(distill, name) * HEALTHY / ratio:.1g}"
        where, stray = "", self._stray(TERMS[term])
        share = sum(stray.values()) / ratio**2
        if share > STRAY:
            plural, numbers = "s" * (len(stray) > 1), ", ".join(stray)
            where = (
                f", {100 * min(share, 1):.0f} % of it in level{plural} {numbers} (0 is the finest), where "
                "the detection losses learn next to nothing"
            )
            own_sum = distill.normalizer in ("mask", "mask_channels")  # each level is divided by its own of S
            if own_sum and term not in WITHOUT_MASK:
                advice = f"--normalizer mask_all_levels or {advice}"
        return (
            f"{term} pulls at the student's features {ratio:,.0f} times as strongly as the detection losses"
            f"{where}. Such a weight may harm the student. Try {advice}."
        )

    def _stray(self, part: str) -> dict[str, float]:
        """The squared ratio of a term in each level where the detection losses learn next to nothing."""
        numbers = [name.rpartition("_")[2] for name in self.lines[-1] if name.startswith(DETECTION_LEVEL)]
        unlearned = [n for n in numbers if self._typical(f"{DETECTION_LEVEL}_{n}") < UNLEARNED]
        return {n: self._typical(f"{part}_{n}") ** 2 for n in unlearned}

    def _typical(self, name: str) -> float:
        """The median of a ratio over the last lines, where one that was left out counts as 0."""
        return statistics.median(ratios.get(name, 0.0) for ratios in self.lines)

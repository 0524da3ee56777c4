"""The tables of a study as rows of text, and what they say in sentences."""

from __future__ import annotations

from typing import Any

from frs_train.study.outcome import ArmOutcome, DataOutcome, Outcome
from frs_train.study.statistics import Difference, difference, summary
from frs_train.training.terms import TERMS

Rows = list[list[str]]  # the first row holds the titles


def scores(outcome: Outcome, data: DataOutcome) -> Rows:
    """For each arm on a data set: mean AP, standard deviation, and the differences to the baselines."""
    titles = ["arm", "runs", "mAP", "sd", *(f"minus {name} [95 %]" for name in outcome.baselines), "weights"]
    rows = []
    for name, arm in data.arms.items():
        found = summary(arm.scores())
        values = ["0", "-", "-"]
        if found:
            spread = "-" if found.deviation is None else f"{found.deviation:.2f}"
            values = [str(found.count), f"{found.mean:.1f}", spread]
        compared = [
            "" if base == name else cell(difference(arm.scores(), data.arms[base].scores()))
            for base in outcome.baselines
        ]
        rows.append([name, *values, *compared, weights(arm)])
    return [titles, *rows]


def every_run(outcome: Outcome, data: DataOutcome) -> Rows:
    """The mAP of each run: a row for each arm, a column for each seed."""
    titles = ["mAP by seed", *map(str, outcome.seeds)]
    rows = []
    for name, arm in data.arms.items():
        values = arm.scores()
        rows.append([name, *(run_text(arm, seed, values) for seed in outcome.seeds)])
    return [titles, *rows]


def run_text(arm: ArmOutcome, seed: int, values: dict[int, float]) -> str:
    return f"{values[seed]:.1f}" if seed in values else "diverged" if seed in arm.diverged else "-"


def tuning(data: DataOutcome) -> Rows:
    """The candidates of every arm: weights, mAP by tuning seed, and gradient ratios at the end."""
    tried = [candidate for arm in data.arms.values() for candidate in arm.candidates]
    seeds = sorted({seed for candidate in tried for seed in candidate.AP})
    names = [name for name in TERMS if any(name in candidate.ratios for candidate in tried)]
    titles = ["arm", "weights", *(f"seed {seed}" for seed in seeds), *(f"ratio of {name}" for name in names)]
    rows = []
    for name, arm in data.arms.items():
        for candidate in arm.candidates:
            marks = [per_cent(candidate.AP.get(seed)) for seed in seeds]
            pulls = [f"{candidate.ratios[n]:.2g}" if n in candidate.ratios else "" for n in names]
            rows.append([name, options_text(candidate.options), *marks, *pulls])
    return [titles, *rows] if rows else []


def cell(found: Difference | None) -> str:
    """A difference with its interval: "+1.3 [0.4, 2.2]"."""
    if found is None:
        return "-"
    interval = "" if found.low is None or found.high is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f}{interval}"


def per_cent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def weights(arm: ArmOutcome) -> str:
    return options_text({k: v for k, v in arm.options.items() if k != "method"})


def options_text(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def verdicts(outcome: Outcome) -> list[str]:
    """A sentence for each data set, arm and baseline."""
    lines = []
    for name, data in outcome.data.items():
        for arm, result in data.arms.items():
            for base in outcome.baselines:
                found = difference(result.scores(), data.arms[base].scores()) if arm != base else None
                if found:
                    over = f"{cell(found)} mAP over {found.count} seeds"
                    lines.append(f"{name}: {arm} minus {base}: {over}: {found.verdict}.")
    return lines

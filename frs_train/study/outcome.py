"""What came out of a study, read from the folders of its runs; the content of study.json."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from frs_train.errors import UserError
from frs_train.evaluation.coco_metrics import METRICS
from frs_train.study.plan import Plan, PlannedRun
from frs_train.study.workers import result_of
from frs_train.training.run_files import read_metrics

LAST = 0.25  # share of a run, at its end, over which losses are averaged


@dataclass(frozen=True)
class RunOutcome:
    """A finished run: its scores (fractions; None where there was nothing to measure), and what its losses
    were at the end: mean values of the last quarter of its lines in metrics.jsonl, by name."""

    scores: dict[str, float | None]
    losses: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """Weights that were tried, and their AP on the tuning images by seed; None for a run that diverged."""

    options: dict[str, Any]
    AP: dict[int, float | None]
    ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmOutcome:
    """An arm on a data set."""

    options: dict[str, Any]
    """The options of its distillation, with the chosen weights."""
    runs: dict[int, RunOutcome]
    """By seed, without those that diverged."""
    candidates: list[Candidate] = field(default_factory=list)
    diverged: dict[int, str] = field(default_factory=dict)

    def scores(self, metric: str = "AP") -> dict[int, float]:
        """A metric in per cent by seed."""
        values = {seed: run.scores.get(metric) for seed, run in self.runs.items()}
        return {seed: 100 * value for seed, value in values.items() if value is not None}


@dataclass(frozen=True)
class DataOutcome:
    """All arms on a data set."""

    arms: dict[str, ArmOutcome]
    teacher: dict[str, float | None] | None = None
    """Its scores, if the study has trained it."""


@dataclass(frozen=True)
class Outcome:
    """The results of a study."""

    seeds: list[int]
    baselines: list[str]
    data: dict[str, DataOutcome]


ADAPTER = TypeAdapter(Outcome)


def to_json(outcome: Outcome) -> bytes:
    return ADAPTER.dump_json(outcome, indent=1) + b"\n"


def read_outcome(path: Path) -> Outcome:
    """The content of a study.json. Raises `UserError` if it is none."""
    try:
        return ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{path} is not what frs-train study writes there ({reason}).") from None


def collect(plan: Plan, diverged: dict[str, str]) -> Outcome:
    """The outcome of a study whose runs have ended; `diverged` has the message of those without a result."""
    study = plan.study
    data = {}
    for name in study.data:
        arms = {arm: _arm(plan, name, arm, diverged) for arm in study.arms}
        teacher = next((_scores(run) for run in plan.teachers() if run.name == f"{name}/teacher"), None)
        data[name] = DataOutcome(arms, teacher)
    return Outcome(list(study.seeds), list(study.baselines), data)


def best_candidate(plan: Plan, name: str, arm: str) -> int:
    """The candidate of an arm with the highest mean AP on the tuning images, the first of equals. A candidate
    with a run that diverged is last."""
    means = [_mean_score(runs) for runs in plan.tuning_of(name, arm)]
    return means.index(max(means)) if means else 0


def _mean_score(runs: list[PlannedRun]) -> float:
    scores = [_scores(run).get("AP") for run in runs]
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if len(known) == len(scores) else -1.0


def _arm(plan: Plan, name: str, arm: str, diverged: dict[str, str]) -> ArmOutcome:
    tried = [
        Candidate(
            options,
            {run.config.train.seed: _scores(run).get("AP") for run in runs},
            _end_of(runs[0]).get("ratios", {}),
        )
        for options, runs in zip(plan.study.arms[arm].candidates, plan.tuning_of(name, arm), strict=False)
    ]
    best = best_candidate(plan, name, arm)
    runs = {seed: plan.student(name, arm, seed, best) for seed in plan.study.seeds}
    candidates = plan.study.arms[arm].candidates
    return ArmOutcome(
        {**plan.study.arms[arm].distill, **(candidates[best] if candidates else {})},
        {seed: RunOutcome(_scores(run), **_end_of(run)) for seed, run in runs.items() if result_of(run)},
        tried,
        {seed: diverged[run.name] for seed, run in runs.items() if run.name in diverged},
    )


def _scores(run: PlannedRun) -> dict[str, float | None]:
    result = result_of(run) or {}
    return {name: result.get(name) for name in METRICS if name in result}


def _end_of(run: PlannedRun) -> dict[str, dict[str, float]]:
    """Mean losses, level values and gradient ratios of the last quarter of a run."""
    path = run.config.out / "metrics.jsonl"
    lines = [line for line in read_metrics(path) if line["kind"] == "train"] if path.exists() else []
    last = [line for line in lines if line["iteration"] > (1 - LAST) * lines[-1]["iteration"]]
    found = {}
    for kind in ("losses", "levels", "ratios"):
        names = dict.fromkeys(name for line in last for name in line.get(kind, {}))
        values = {name: [line[kind][name] for line in last if name in line.get(kind, {})] for name in names}
        found[kind] = {name: statistics.fmean(numbers) for name, numbers in values.items()}
    return found

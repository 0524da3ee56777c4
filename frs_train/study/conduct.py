"""`conduct`, which runs a study from its file to its page."""

from __future__ import annotations

import json
import os
from pathlib import Path

from frs_train import distributed
from frs_train.data.digits import SCENES, make_digits
from frs_train.errors import UserError
from frs_train.files import locked, write_atomically
from frs_train.log import Log
from frs_train.options import to_dict
from frs_train.study.file import Study
from frs_train.study.outcome import Outcome, best_candidate, collect, to_json
from frs_train.study.page import write_page
from frs_train.study.plan import Plan, PlannedRun
from frs_train.study.tables import per_cent
from frs_train.study.workers import Workers, drop_checkpoints, result_of
from frs_train.training.checkpoint import read_detector
from frs_train.training.datasets import open_data


def conduct(study: Study, out: Path, jobs: int, log: Log) -> Outcome:
    """Makes the data, trains the teachers, chooses the weights, trains every arm with every seed, and writes
    study.json, study.md, study.png and study.html to `out`. Goes on where an earlier call was stopped.

    Args:
        jobs: runs side by side; 0 is one for each CPU core, or a single one on a GPU.

    Raises:
        UserError: a configuration is wrong, or a run cannot be done.
    """
    plan = Plan(study, out)
    total = len(plan.teachers()) + len(plan.tuning()) + len(study.data) * len(study.arms) * len(study.seeds)
    diverged: dict[str, str] = {}
    with locked(out):
        make_data(plan, log)
        check_data(plan)
        with log.progress(total, 0, "runs") as tell, Workers(jobs or default_jobs()) as workers:

            def train(runs: list[PlannedRun], done: int) -> int:
                left = [run for run in runs if result_of(run) is None]
                done += len(runs) - len(left)
                tell(completed=done)
                for run, problem in workers.train(left):
                    done += 1
                    tell(completed=done)
                    log.say(f"[{done}/{total}]  {run.name}  {problem or described(run)}")
                    if problem:
                        diverged[run.name] = problem
                    if not run.final:
                        drop_checkpoints(run.config.out)
                return done

            done = train(plan.teachers(), 0)
            if diverged:
                raise UserError(f"A teacher diverged: {diverged}")
            done = train(plan.tuning(), done)
            train(reported(plan), done)
        outcome = collect(plan, diverged)
        write_atomically(out / "study.json", to_json(outcome))
        write_page(outcome, out)
    return outcome


def default_jobs() -> int:
    """One run for each CPU core; a single one where a GPU is used."""
    return 1 if distributed.pick_device("auto").type == "cuda" else os.cpu_count() or 1


def make_data(plan: Plan, log: Log) -> None:
    """Makes the digits data sets of the study that do not exist.

    Raises:
        UserError: a folder holds digits that were made with other options.
    """
    for folder, digits in plan.made():
        recipe = json.dumps(to_dict(digits))
        note = folder / "made.json"
        if not note.exists():
            log.say(f"Making {digits.train} + {digits.val} images of digits in {folder}.")
            make_digits(folder, digits.train, digits.val, digits.size, digits.seed, SCENES[digits.scenes])
            write_atomically(note, recipe.encode())
        elif note.read_text(encoding="utf-8") != recipe:
            raise UserError(
                f"{folder} holds digits made with other options. Remove it, or choose another --out."
            )


def check_data(plan: Plan) -> None:
    """Opens every data set and every teacher that exists. Raises `UserError` if one cannot be used."""
    study, silent = plan.study, Log(quiet=True)
    reported = [plan.student(name, next(iter(study.arms)), study.seeds[0]) for name in study.data]
    for config in {str(run.config.data): run.config for run in (*reported, *plan.tuning())}.values():
        open_data(config, silent)
    for checkpoint in {checkpoint for name in study.data if (checkpoint := plan.checkpoint(name))}:
        read_detector(checkpoint, silent)


def reported(plan: Plan) -> list[PlannedRun]:
    """The runs of each data set, arm and seed, with the weights that the tuning runs have chosen."""
    study = plan.study
    return [
        plan.student(name, arm, seed, best_candidate(plan, name, arm))
        for name in study.data
        for seed in study.seeds
        for arm in study.arms
    ]


def described(run: PlannedRun) -> str:
    result = result_of(run) or {}
    return f"AP {per_cent(result.get('AP'))}"

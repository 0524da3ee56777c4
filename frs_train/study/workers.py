"""Several runs side by side, in processes of their own.

A run that has finished is never repeated, and one that was stopped goes on where it was saved, so that the
same command continues a study from any point.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from frs_train.config import RunConfig
from frs_train.errors import Diverged, Stopped, UserError
from frs_train.interrupt import SIGNALS
from frs_train.options import from_dict, to_dict
from frs_train.report.page import flatten
from frs_train.study.plan import PlannedRun
from frs_train.training.run_files import read_config, read_result

IGNORED = ("out", "resume")  # options that change nothing about a finished run


class Workers:
    """`jobs` processes that train runs; `with Workers(2) as workers: workers.train(runs)`."""

    def __init__(self, jobs: int):
        self.jobs = jobs

    def __enter__(self) -> Workers:
        context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
        self.pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_prepare)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            for process in multiprocessing.active_children():
                process.terminate()  # a run saves itself; an idle process ends with the pool
        self.pool.shutdown(cancel_futures=True)

    def train(self, runs: Iterable[PlannedRun]) -> Iterator[tuple[PlannedRun, str]]:
        """Trains the runs. Yields each run as it ends, and a message if it diverged, or an empty text.

        Raises:
            UserError: a run cannot be done.
        """
        waiting = {self.pool.submit(_train, to_dict(run.config)): run for run in runs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "A process of the study died, perhaps for lack of memory. The same command goes on where it "
                "was; with fewer --jobs it needs less."
            ) from None
        except Stopped as stopped:  # Ctrl-C reaches the processes too
            raise KeyboardInterrupt(stopped.code - 128) from None


def result_of(run: PlannedRun) -> dict[str, Any] | None:
    """The content of the run's `result.json`; None if it is unfinished. Raises `UserError` if the folder
    holds a run with other options."""
    folder = run.config.out
    if not (folder / "result.json").exists():
        return None
    saved = to_dict(from_dict(RunConfig, read_config(folder / "config.json")))
    before, planned = flatten(saved), flatten(to_dict(run.config))
    for name in dict.fromkeys([*planned, *before]):
        if name not in IGNORED and before.get(name) != planned.get(name):
            raise UserError(
                f"{folder} holds a finished run with other options: {name} was {before.get(name)!r} and is "
                f"{planned.get(name)!r} in the study. Choose another --out, or remove that folder."
            )
    return read_result(folder / "result.json")


def _prepare() -> None:
    """Prepares a process: between two runs it ignores signals, and it ends when the main process dies."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(options: dict[str, Any]) -> str:
    """Trains one run, with its log in its folder; returns a message if it diverged, or an empty text."""
    from frs_train.log import Log
    from frs_train.training.run import fit

    config = from_dict(RunConfig, options)
    config.out.mkdir(parents=True, exist_ok=True)
    with open(config.out / "log.txt", "a", encoding="utf-8") as file:
        try:
            fit(config, Log(file=file))
        except Diverged as error:
            return str(error)
    return ""


def drop_checkpoints(folder: Path) -> None:
    """Removes the weights of a run whose result is all that is needed."""
    for path in (*folder.glob("checkpoint-*.pt"), folder / "best.pt"):
        path.unlink(missing_ok=True)

"""The folder of a run is one run's: it holds config.json, metrics.jsonl, checkpoint-<8 digits>.pt (the newest
`keep`), best.pt, result.json when the run is done, and .lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from frs_train import distributed
from frs_train.errors import UserError


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps it for this run (all processes of it) as long as the block lasts.

    The lock is the kernel's, on an open file: it ends with the process that holds it, however that ends.

    Raises:
        UserError: another run holds it, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        problem = ""
        if distributed.rank() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(folder / ".lock", timeout=0))
            except filelock.Timeout:
                problem = (
                    f"Another run is training into {folder} now (it holds {folder / '.lock'}). Choose "
                    "another --out, or go on with --resume when it has ended."
                )
            except OSError as error:
                problem = f"{folder} cannot be used: {error.strerror or error}. Choose another --out."
        problem = distributed.gather(problem)[0]
        if problem:
            raise UserError(problem)
        yield

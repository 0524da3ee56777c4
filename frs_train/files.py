"""The folder of a run is one run's: it holds config.json, metrics.jsonl, checkpoint-<8 digits>.pt (the newest
`keep`), best.pt, result.json when the run is done, and .lock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from frs_train import distributed
from frs_train.errors import UserError
from frs_train.text import printable


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


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file by new content; whatever happens, the path holds the old or the new, complete.

    Raises `UserError` if the content cannot be written (a full disk, no permission).
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        remove(part)
        raise UserError(
            f"{path} cannot be written: {error.strerror}. What was there before is unharmed. Make room or "
            "choose another folder, then run the same command with --resume."
        ) from None


def remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # what cannot be written cannot be tidied either; the first error is the one to report


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


LONGEST = 200  # bytes of a file name without its ending; file systems take 255 in all


def picture_names(files: Sequence[str]) -> list[str]:
    """The name of a PNG for each image file, all for one folder: the image's, with _ for /, and with a number
    where that is taken (also by one that differs in capitals only: not all file systems see a difference)."""
    taken: set[str] = set()
    names = []
    for file in files:
        flat = printable(os.path.splitext(file)[0]).replace("/", "_")
        stem = name = flat.encode()[:LONGEST].decode(errors="ignore")
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names

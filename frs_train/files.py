"""Files and folders: atomic writes, the lock of a run folder, file names for pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock

from frs_train import distributed
from frs_train.errors import UserError
from frs_train.text import printable


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder of a run and locks it (.lock) for all processes of the run during the block.

    The kernel holds the lock on an open file, and releases it when the process ends, even if it is killed.

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
                    "another --out, or continue it with --resume when it has ended."
                )
            except OSError as error:
                problem = f"{folder} cannot be used: {error.strerror or error}. Choose another --out."
        problem = distributed.gather(problem)[0]
        if problem:
            raise UserError(problem)
        yield


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replaces the content of a file. The path always has either the whole old content or the whole
    new one.

    Raises `UserError` if the content cannot be written (a full disk, no permission).
    """
    with written_atomically(path) as write:
        write(content)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Callable[[bytes | memoryview], object]]:
    """Like `write_atomically`, for content in pieces: yields a function that takes a piece. The content is
    replaced at the end of the block, unless the block raises an exception. An `OSError` of the block is taken
    for one of this file."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        remove(part)
        raise UserError(
            f"{path} cannot be written: {error.strerror}. The previous content is unharmed. Free some "
            "space or choose another folder, then repeat the command (a training with --resume)."
        ) from None
    except BaseException:
        remove(part)
        raise


def remove(path: Path) -> None:
    """Removes a file if possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a folder that cannot be written cannot be cleaned up either


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder, and others none that cannot be read
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


LONGEST = 200  # bytes of a file name without its suffix; file systems allow 255 in total


def picture_names(files: Sequence[str]) -> list[str]:
    """A PNG name for each image file, unique within a folder: the name with _ for /, and a number if that
    name is taken. Names that differ only in case count as equal, as on case-insensitive file systems."""
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

"""The log of a command: lines and progress bars on the terminal, from process 0."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from frs_train import distributed


class Log:
    """Prints lines and progress bars to `file`, by default the error stream; only process 0 prints."""

    def __init__(self, quiet: bool = False, file: TextIO | None = None):
        self.console = Console(
            file=file, stderr=True, highlight=False, quiet=quiet or distributed.rank() > 0, soft_wrap=True
        )
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn(
                "{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
        )

    def say(self, text: str) -> None:
        """Prints one line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Prints one line as a warning."""
        self.console.print(f"warning: {text}", markup=False, style="yellow")

    @contextlib.contextmanager
    def progress(self, total: int, done: int, what: str) -> Iterator[Callable[..., None]]:
        """Shows a progress bar during the block, below the bar of an enclosing block.

        Yields a function that takes `advance` or `completed` (counts), and `text` and `rate` (shown
        unchanged). Nothing is drawn into a file or a pipe, where `Metrics` prints lines instead.
        """
        with contextlib.ExitStack() as stack:
            if not self.bar.live.is_started:
                stack.enter_context(self.bar)
            task = self.bar.add_task(what, total=total, completed=done, text="", rate="")
            stack.callback(self.bar.remove_task, task)

            def tell(*, advance: float | None = None, completed: float | None = None, **fields: Any) -> None:
                self.bar.update(task, advance=advance, completed=completed, **fields)

            yield tell

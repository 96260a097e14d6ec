"""What commands show in their console: sentences, warnings, log lines of the kernels and the data, and progress."""

import logging
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Notes(logging.Handler):
    """Shows log lines in a console that may hold a progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"note: {record.getMessage()}", style="dim", markup=False, highlight=False)


def show_log(console: Console) -> None:
    for name in ("fastgan", "fastgan_kernels"):
        logger = logging.getLogger(name)
        logger.handlers = [_Notes(console)]
        logger.propagate = False


def say(console: Console, text: str, style: str | None = None) -> None:
    """Prints text as it is: unwrapped, and without markup or highlights."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def warner(console: Console) -> Callable[[str], None]:
    """Makes a function that prints a sentence as a warning."""
    return lambda sentence: say(console, f"warning: {sentence}", "yellow")


def progress_bars(console: Console, **options: Any) -> Progress:
    """Progress bars with the time left, shown in a terminal only."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal, **options)

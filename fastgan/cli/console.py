"""What the kernels and the data have to say, shown in the console of a command."""

import logging

from rich.console import Console


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

"""Ctrl-C and SIGTERM during training: the current step is finished, samples are cut short, and the run is saved."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class _Stop(BaseException):
    """Interrupts the function that :meth:`StopSignals.cut_short` runs."""


class StopSignals:
    """Records the first SIGINT or SIGTERM instead of ending the process.

    A second SIGINT raises KeyboardInterrupt. A second SIGTERM is ignored: supervisors often send it twice, to the
    process and to its group, and later SIGKILL. Outside the main thread, where Python allows no handlers, this class
    records nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._may_leave = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def cut_short(self, function: Callable[[], T]) -> T | None:
        """Calls a function that may take long and has no side effects; returns None if a signal came or comes."""
        try:
            self._may_leave = True
            return None if self.received else function()
        except _Stop:
            return None
        finally:
            self._may_leave = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = signal.Signals(number)
        if self._may_leave:
            raise _Stop


@contextlib.contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """A context for the time before there is a state to save: SIGTERM exits with code 143."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

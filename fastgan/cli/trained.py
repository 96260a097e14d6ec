"""Loads the trained generator of a command."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fastgan.console import say, show_log, warner

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Trained:
    """A generator in evaluation mode, the folder it was loaded from, and its number of steps, if known."""

    source: Path
    generator: "nn.Module"
    step: int | None
    console: Console

    def say(self, text: str) -> None:
        say(self.console, text)


def load_trained(source: Path, device: str, model: str | None) -> Trained:
    """Loads the EMA generator of a run's latest checkpoint, or the generator of a model folder."""
    from fastgan.training.checkpoint import load_trained_generator
    from fastgan.training.device import resolve_device

    console = Console()
    show_log(console)
    where = resolve_device(device)
    return Trained(source, *load_trained_generator(source, where, model=model, warn=warner(console)), console)

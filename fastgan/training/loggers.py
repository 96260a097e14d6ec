"""Where figures and pictures of a run go beside ``metrics.jsonl``: TensorBoard, and Weights & Biases on request."""

import dataclasses
import secrets
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.files import replace_file

WANDB_ID_FILE = "wandb_id"


class Logger(Protocol):
    """Takes what a run reports."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Figures by tag, such as ``generator/loss``."""

    def text(self, step: int, sentence: str) -> None:
        """What was told of training health."""

    def samples(self, step: int, grid: Tensor) -> None:
        """A picture, uint8 [C, H, W]."""

    def close(self, *, failed: bool) -> None:
        """Writes what is left."""


class TensorBoardLogger:
    """Event files in ``RUN/tensorboard``; entries of a run that was cut off after ``step`` are taken out."""

    def __init__(self, run: Path, step: int) -> None:
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def text(self, step: int, sentence: str) -> None:
        self._writer.add_text("health", sentence, step)

    def samples(self, step: int, grid: Tensor) -> None:
        self._writer.add_image("samples", grid, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class WandbLogger:
    """A run on Weights & Biases, which a resumed training goes on with: its id is kept in ``RUN/wandb_id``.

    The step is a figure beside the others. The service's own may not go back, as that of a run does that was cut off
    after its last checkpoint: what it reports again are the same figures for the same steps.

    Raises:
        SettingsError: where the package is not installed or refuses to start, as without a key; one sentence.
    """

    def __init__(self, run: Path, config: TrainingConfig) -> None:
        self._wandb = import_wandb(config)
        path = run / WANDB_ID_FILE
        if not path.exists():
            replace_file(path, secrets.token_hex(8).encode())
        try:
            self._run = self._wandb.init(
                project=config.wandb,
                id=path.read_text(encoding="utf-8-sig").strip(),
                resume="allow",
                name=run.resolve().name,
                dir=str(run),
                config=dataclasses.asdict(config),
            )
        except self._wandb.Error as error:
            first_line = str(error).partition("\n")[0]
            raise SettingsError(
                f"setting 'wandb' is {config.wandb!r} and Weights & Biases does not start: {first_line}; the "
                "environment variable WANDB_MODE=offline does without its service"
            ) from None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def text(self, step: int, sentence: str) -> None:
        self._run.log({"step": step, "health": sentence})

    def samples(self, step: int, grid: Tensor) -> None:
        self._run.log({"step": step, "samples": self._wandb.Image(grid.permute(1, 2, 0).cpu().numpy())})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def import_wandb(config: TrainingConfig) -> Any:
    """The package wandb.

    Raises:
        SettingsError: where it is not installed; one sentence.
    """
    try:
        import wandb
    except ImportError:
        raise SettingsError(
            f"setting 'wandb' is {config.wandb!r} and the package wandb is not installed; expected it from "
            "pip install 'fastgan[wandb]', or the setting empty"
        ) from None
    return wandb

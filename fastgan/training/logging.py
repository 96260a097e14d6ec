"""Logging: progress in the terminal, metrics.jsonl, sample grids, TensorBoard and, optionally, Weights & Biases."""

import contextlib
import dataclasses
import io
import json
import os
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fastgan.console import progress_bars, say
from fastgan.errors import first_line
from fastgan.extras import require_extra
from fastgan.random_state import preserved_random_state
from fastgan.sampling import picture, save_png
from fastgan.training.checkpoint import replace_file
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.device import peak_memory
from fastgan.training.health import Finding

WANDB_ID_FILE = "wandb_id"

_CPU = torch.device("cpu")
_SECONDS_BETWEEN_REFRESHES = 0.5
_SECONDS_TO_FIRST_LINE = 10
_NOT_HEALTH = ("discriminator_loss", "generator_loss", "penalty", "fid", "images_per_second", "peak_memory_mib")


class Reporter:
    """Writes ``metrics.jsonl``, ``samples/`` and the loggers' files to a run's folder, and shows progress.

    Each report is printed as a line; a terminal also shows a progress bar. If the first report takes more than ten
    seconds, a line before it gives the time per step.

    Entries after ``step``, the number of steps trained, are deleted: they are from a run interrupted after its last
    checkpoint. ``device`` is the one whose peak memory is reported.
    """

    # Loggers are third-party code, which may draw random numbers.
    @preserved_random_state()
    def __init__(
        self,
        run: Path,
        config: TrainingConfig,
        *,
        step: int,
        num_images: int,
        console: Console,
        device: torch.device = _CPU,
    ) -> None:
        self._device = device
        self._run = run
        self._config = config
        self._console = console
        self._last_step = step
        self._last_num_images = num_images
        self._next_refresh = 0.0
        metrics = run / "metrics.jsonl"
        _drop_rows_after(metrics, step, every=config.log_every, last=config.steps)
        self._metrics = metrics.open("a", encoding="utf-8")
        # Set before TensorBoard's thread starts, which writes immediately.
        self._excepthook = threading.excepthook
        threading.excepthook = self._note_exception_of_thread
        try:
            self._loggers: list[TensorBoardLogger | WandbLogger] = [TensorBoardLogger(run, step)]
            if config.wandb:
                self._loggers.append(WandbLogger(run, config))
        except BaseException:
            threading.excepthook = self._excepthook
            raise
        (run / "samples").mkdir(exist_ok=True)
        # Refreshed by the training loop: a separate thread would interrupt it ten times per second.
        self._progress = progress_bars(console, auto_refresh=False)
        self._task = self._progress.add_task("training", total=config.steps, completed=step)

    def __enter__(self) -> Self:
        self._progress.start()
        self._last_time = time.perf_counter()
        self._first_line_is_due = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.refresh()
        self._progress.stop()
        try:
            # On a full disk closing fails too; the first error is raised.
            with contextlib.nullcontext() if error is None else contextlib.suppress(OSError):
                self.close(failed=isinstance(error, Exception))
        finally:
            threading.excepthook = self._excepthook

    @preserved_random_state()
    def close(self, *, failed: bool = False) -> None:
        """Writes the rest of the logs and closes them; does nothing when called again."""
        with contextlib.ExitStack() as stack:  # which closes all, and then raises the first error
            stack.callback(self._metrics.close)
            while self._loggers:
                stack.callback(self._loggers.pop().close, failed=failed)

    def _note_exception_of_thread(self, args: threading.ExceptHookArgs) -> None:
        # TensorBoard writes in a thread, whose errors its next call raises again.
        if not issubclass(args.exc_type, OSError):
            self._excepthook(args)

    def sync(self) -> None:
        """Waits until the rows so far are on the disk: a run resumed from a checkpoint appends to them."""
        os.fsync(self._metrics.fileno())

    def advance(self, step: int) -> None:
        """Called after every step; refreshes the progress bar now and then."""
        now = time.perf_counter()
        if self._first_line_is_due:
            steps, every, seconds = self._config.steps, self._config.log_every, now - self._last_time
            per_step = seconds / max(step - self._last_step, 1)
            # Printed now, since the next step would end too late.
            if seconds + per_step > _SECONDS_TO_FIRST_LINE and step % every and step < steps:
                self._first_line_is_due = False
                losses_at = min(step - step % every + every, steps)
                say(
                    self._console,
                    f"step {step}/{steps}  {per_step:.1f} seconds per step; losses come at step {losses_at}",
                )
        if now >= self._next_refresh:
            self._next_refresh = now + _SECONDS_BETWEEN_REFRESHES
            self._progress.update(self._task, completed=step, refresh=True)

    @preserved_random_state()
    def report(
        self,
        step: int,
        figures: dict[str, float],
        findings: Sequence[Finding] = (),
        *,
        num_images: int,
        ongoing: Sequence[str] = (),
    ) -> None:
        """Reports means up to ``step``, and the throughput since the last report, including pauses.

        A finding of training health is reported when it begins and when it ends: ``ongoing`` has the names of those at
        the last report.
        """
        self._first_line_is_due = False
        now = time.perf_counter()
        seconds = now - self._last_time
        images_per_second = (num_images - self._last_num_images) / seconds
        left = (self._config.steps - step) * seconds / max(step - self._last_step, 1)
        self._last_time, self._last_step, self._last_num_images = now, step, num_images

        values = {
            **figures,
            "images_per_second": images_per_second,
            "peak_memory_mib": peak_memory(self._device) / 2**20,
        }
        names = [finding.name for finding in findings]
        self._metrics.write(json.dumps({"step": step, **values} | ({"findings": names} if names else {})) + "\n")
        self._metrics.flush()
        tagged = {
            name.replace("_loss", "/loss") if name in _NOT_HEALTH else f"health/{name}": value
            for name, value in values.items()
        }
        for logger in self._loggers:
            logger.scalars(step, tagged)

        text = f"D {figures['discriminator_loss']:.3f}  G {figures['generator_loss']:.3f}  "
        if "d_real" in figures:
            text += f"D(x) {figures['d_real']:.2f}  D(G(z)) {figures['d_fake']:.2f}  "
        if "fid" in figures:
            text += f"FID {figures['fid']:.4g}  "
        text += f"{images_per_second:,.0f} img/s"
        minutes, seconds = divmod(round(left), 60)
        say(self._console, f"step {step}/{self._config.steps}  {text}  {minutes}:{seconds:02d} left")
        self._progress.update(self._task, completed=step, refresh=True)
        sentences = [f"{f.name}: {f.evidence}. Try {f.remedy}." for f in findings if f.name not in ongoing]
        sentences += [f"{name} is over." for name in ongoing if name not in names]
        for sentence in sentences:
            say(self._console, f"health at step {step}: {sentence}", "yellow")
            for logger in self._loggers:
                logger.text(step, sentence)

    @preserved_random_state()
    def samples(self, step: int, images: Tensor, **layout: Any) -> Path:
        """Writes a picture of images [N, C, H, W] in [-1, 1] to ``samples/STEP.png``, atomically, and to the loggers;
        ``layout`` as in :func:`fastgan.sampling.picture`."""
        grid = picture(images, **layout)
        path = self._run / "samples" / f"{step}.png"
        content = io.BytesIO()
        save_png(grid, content)
        replace_file(path, content.getvalue())
        for logger in self._loggers:
            logger.samples(step, grid)
        return path


class TensorBoardLogger:
    """Event files in ``RUN/tensorboard``; entries after ``step``, from an interrupted run, are deleted."""

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
    """A run on Weights & Biases; its id is stored in ``RUN/wandb_id``, so that a resumed run continues it.

    The step is logged as a figure, since the service's own step may not decrease. A run that was interrupted after its
    last checkpoint logs the same figures for the same steps again.

    Raises:
        SettingsError: where it does not start, as without a key; one sentence.
    """

    def __init__(self, run: Path, config: TrainingConfig) -> None:
        self._wandb = require_wandb()
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
            raise SettingsError(
                f"setting 'wandb' is {config.wandb!r} and Weights & Biases does not start: {first_line(error)}; the "
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


def require_wandb() -> Any:
    """Imports wandb; MissingExtraError if it is not installed."""
    return require_extra("wandb", "setting 'wandb'", "wandb")


def _drop_rows_after(path: Path, step: int, *, every: int, last: int) -> None:
    """Keeps the rows that an uninterrupted run would have at ``step``; deletes an incomplete last line too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        try:
            row = json.loads(line)
            wanted = row["step"] <= step and (row["step"] % every == 0 or row["step"] == last)
        except (ValueError, TypeError, LookupError):
            continue
        if wanted:
            kept.append(line + "\n")
    replace_file(path, "".join(kept).encode())

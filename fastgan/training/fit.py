"""Fitting: a trainer runs to its last step, and a run's folder gets its metrics, samples and checkpoints."""

import dataclasses
import errno
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from fastgan.training.checkpoint import drop_checkpoints, latest_checkpoint, save_checkpoint
from fastgan.training.config import TrainingConfig
from fastgan.training.evaluate import FidTracker
from fastgan.training.health import diagnose, non_finite_values
from fastgan.training.logging import Reporter, SilentReporter
from fastgan.training.signals import StopSignals
from fastgan.training.trainer import Trainer

T = TypeVar("T")

NON_FINITE_FOLDER = "non_finite"
# The disk is full, or the quota, or the file is too large.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Settings that no weight depends on, or that are refused or given anew when a run is resumed.
_NOT_OF_THE_STATE = {
    *("steps", "device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "keep_every", "wandb"),
    *("evaluate_every", "evaluate_count", "evaluate_features"),
}


class EndedError(RuntimeError):
    """Training cannot continue, though the settings are valid. The message is one sentence."""


class NonFiniteError(EndedError):
    """A loss or a tensor of the state became infinite or NaN."""


class WriteError(EndedError):
    """The run's folder cannot be written, for example because the disk is full."""


class Fit:
    """A trainer and the folder that it trains into.

    Args:
        folder: the run's folder.
        trainer: at its first step, or where a checkpoint left off.
        tracker: measures the FID; on the first rank.
        console: shows progress.
    """

    def __init__(self, folder: Path, trainer: Trainer, tracker: FidTracker | None, console: Console) -> None:
        self.folder = folder
        self.trainer = trainer
        self.config = trainer.config
        self.tracker = tracker
        self._console = console

    def run(self, *, saved: int | None) -> signal.Signals | None:
        """Trains to the last step, and reports, samples and saves on the way.

        Args:
            saved: the step of the latest checkpoint, or None.

        Returns:
            The signal that stopped training before its last step or its samples, after saving, or None.
        """
        trainer, config = self.trainer, self.config
        self._describe()
        began = time.perf_counter()
        try:
            # Loggers may wait for a network when they begin and end; nothing is to be saved then, and signals do as
            # usual.
            with self._reporter() as reporter, StopSignals() as stop:
                # A signal may have cut them short.
                sampled = not self.on_first(self.lacks_samples) or self._sample(stop, reporter)
                # Ranks that did not stop at the same step would wait for each other forever.
                while trainer.step_count < config.steps and not trainer.distributed.any(stop.received is not None):
                    trainer.step()
                    step = trainer.step_count
                    last = step == config.steps
                    reporter.advance(step)
                    if step % config.log_every == 0 or last:
                        self._require_finite()
                        if self._report(reporter):
                            self._save(reporter)
                            saved = step
                    if step % config.sample_every == 0 or last:
                        sampled = self._sample(stop, reporter)
                    if step % config.checkpoint_every == 0 and saved != step:
                        self._save(reporter)
                        saved = step
                if saved != trainer.step_count:
                    self._save(reporter)
        except OSError as error:
            raise write_error(error, self.folder) from error
        step = trainer.step_count
        if step < config.steps or not sampled:
            before = "" if sampled else ", before its samples,"
            self._print(
                f"Stopped at step {step} of {config.steps}{before} and saved. Resume with:\n  "
                f"{resume_command(self.folder)}"
            )
            return stop.received or signal.SIGTERM  # which another rank received
        if self.tracker is not None and (best := self.tracker.best) is not None:
            self._print(f"The best FID was {best.fid:.4g} at step {best.step}, whose checkpoint is kept")
        seconds = round(time.perf_counter() - began)
        self._print(
            f"Trained to step {step} in {seconds // 60}:{seconds % 60:02d}. Samples are in {self.folder / 'samples'}; "
            f"make more with:\n  fastgan generate {shlex.quote(str(self.folder))}"
        )
        return None

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False)

    def _describe(self) -> None:
        trainer, config = self.trainer, self.config
        world_size = trainer.distributed.world_size
        together = f", {world_size} ranks" if world_size > 1 else ""
        self._print(
            f"Training {config.model} at {config.resolution}x{config.resolution} on {trainer.device}{together} with "
            f"{len(trainer.images):,} images of {config.data}, into {self.folder}"
        )
        for note in (trainer.images.note, f"Steps run in mode {trainer.mode!r}: {trainer.mode_reason}"):
            self._print(note, "dim")
        for note in [*trainer.notes, *self._early_end()]:
            self._print(f"note: {note}", "dim")
        if balance := trainer.gan_step.loss.balance():
            self._print(
                f"Where real and generated images cannot be told apart D(x) and D(G(z)) are {balance[0]:g}, and G, the "
                f"generator's loss, is {balance[1]:.3f}"
            )

    def _early_end(self) -> list[str]:
        schedule, steps = self.trainer.schedule, self.config.steps
        if steps > schedule.growing_steps:
            return []
        first, last = schedule.resolutions[0], schedule.resolutions[-1]
        end = schedule.at(steps - 1)
        unfinished = " that has not faded in" if end.fade < 1 else ""
        return [
            f"growing from {first}x{first} to {last}x{last} takes more than {schedule.growing_steps} steps, and the "
            f"run ends at step {steps}, at {end.resolution}x{end.resolution}{unfinished}; see grow_stable_steps and "
            "grow_fade_steps"
        ]

    def on_first(self, function: Callable[[], T]) -> T:
        """As :meth:`Distributed.on_first`, of what writes in the run's folder.

        Raises:
            WriteError: where it cannot be written.
        """

        def writing() -> T:
            try:
                return function()
            except OSError as error:
                raise write_error(error, self.folder) from error

        return self.trainer.distributed.on_first(writing)

    def lacks_samples(self) -> bool:
        """Whether the samples of the present step are due and missing."""
        step = self.trainer.step_count
        due = step > 0 and (step % self.config.sample_every == 0 or step == self.config.steps)
        return due and not (self.folder / "samples" / f"{step}.png").exists()

    def drop_checkpoints(self) -> None:
        """Deletes the checkpoints that are not to be kept."""
        protected = [] if self.tracker.best is None else [self.tracker.best.step]
        keep_last, keep_every = self.config.keep_checkpoints, self.config.keep_every
        drop_checkpoints(self.folder, keep_last=keep_last, keep_every=keep_every, protected=protected)

    def _reporter(self) -> Reporter | SilentReporter:
        reporters: list[Reporter] = []

        def begin() -> None:
            reporter = Reporter(
                self.folder,
                self.config,
                step=self.trainer.step_count,
                num_images=self.trainer.num_images,
                ongoing=self.trainer.history.going_on,
                device=self.trainer.device,
                console=self._console,
            )
            reporters.append(reporter)

        self.on_first(begin)
        return reporters[0] if reporters else SilentReporter()

    def _sample(self, stop: StopSignals, reporter: Reporter | SilentReporter) -> bool:
        """Draws samples on the first rank; returns on all ranks whether no signal came first."""

        def draw() -> bool:
            sample = stop.cut_short(self.trainer.sample)
            if sample is not None:
                images, columns = sample
                reporter.samples(self.trainer.step_count, images, columns=columns)
            return sample is not None

        return self.on_first(draw)

    def _report(self, reporter: Reporter | SilentReporter) -> bool:
        """Reports the figures; returns on all ranks whether the FID was measured and is the best so far."""
        trainer = self.trainer
        step = trainer.step_count
        trainer.all_reduce_figures_()
        reading = trainer.statistics.read(step)
        history, findings = diagnose(trainer.history, reading, self.config.loss)
        figures = trainer.mean_losses() | trainer.health_figures(reading)
        every = self.config.evaluate_every

        def report() -> bool:
            improved = False
            if every and step % every == 0:
                figures["fid"], improved = self.tracker.measure(trainer.ema.module, step)
            reporter.report(step, figures, findings, num_images=trainer.num_images)
            return improved

        improved = self.on_first(report)
        # The last report may cut an interval short; its sums stay, for a run that is resumed with more steps.
        if step % self.config.log_every == 0:
            trainer.reset_figures()
            trainer.history = history
        return improved

    def _save(self, reporter: Reporter | SilentReporter) -> None:
        self._require_finite()
        self.trainer.all_reduce_figures_()
        tensors = self.trainer.tensors()

        def save() -> None:
            reporter.sync()
            state = self.trainer.state() | {"settings": kept_settings(self.config)}
            if self.tracker.best is not None:
                state["best"] = self.tracker.best._asdict()
            save_checkpoint(self.folder, self.trainer.step_count, tensors, state)
            self.drop_checkpoints()

        self.on_first(save)

    def _require_finite(self) -> None:
        trainer = self.trainer
        bad = trainer.first_non_finite()
        if bad is None:
            return
        tensors = trainer.tensors()

        def end() -> None:
            checkpoint = latest_checkpoint(self.folder)
            kept = f"the latest checkpoint, {checkpoint}, is from before" if checkpoint else "no checkpoint was written"
            saved = self.folder / NON_FINITE_FOLDER / str(trainer.step_count)
            shutil.rmtree(saved, ignore_errors=True)
            state = trainer.state() | {"first_non_finite": bad._asdict()}
            save_checkpoint(self.folder, trainer.step_count, tensors, state, folder=NON_FINITE_FOLDER)
            finding = non_finite_values(*bad)
            raise NonFiniteError(
                f"{finding.name}: {finding.evidence}; the state at step {trainer.step_count} is in {saved}, for "
                f"inspection; {kept}; try {finding.remedy}"
            )

        self.on_first(end)


def write_error(error: OSError, run: Path) -> WriteError:
    """The error for a folder that cannot be written, with what is whole and what to do."""
    checkpoint = latest_checkpoint(run)
    kept = f"the latest checkpoint, {checkpoint}, is whole" if checkpoint else "no checkpoint was written"
    cure = "make room" if error.errno in NO_ROOM else "put that right"
    again = f"resume with {resume_command(run)!r}" if checkpoint else "start again"
    return WriteError(
        f"run folder {str(run)!r} cannot be written: {error.strerror or error}; {kept}; {cure} and {again}"
    )


def resume_command(run: Path) -> str:
    """The command that resumes a run."""
    return f"fastgan train --resume {shlex.quote(str(run))}"


def kept_settings(config: TrainingConfig) -> dict[str, Any]:
    """The settings that the weights depend on, for a checkpoint to keep."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_OF_THE_STATE}

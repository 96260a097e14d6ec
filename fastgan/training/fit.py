"""Fitting: trains to the last step, and writes metrics, samples and checkpoints to the run's folder."""

import errno
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan.console import say
from fastgan.data.sources import ImageSource
from fastgan.models.own import OWN
from fastgan.random_state import preserved_random_state
from fastgan.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    replace_file,
    save_checkpoint,
    set_aside_after,
)
from fastgan.training.config import TrainingConfig, to_toml
from fastgan.training.evaluate import FidTracker
from fastgan.training.health import diagnose, non_finite_values
from fastgan.training.logging import WANDB_ID_FILE, Reporter, require_wandb
from fastgan.training.signals import StopSignals, exiting_on_sigterm

if TYPE_CHECKING:
    from fastgan.training.trainer import Trainer

CONFIG_FILE = "config.toml"
NON_FINITE_FOLDER = "non_finite"
# The disk is full, a quota is exhausted, or the file is too large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Settings that do not affect the weights, or that are refused or given again when a run is resumed.
_NOT_OF_THE_STATE = {
    *("model", "steps", "device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "keep_every"),
    *("wandb", "evaluate_every", "evaluate_count", "evaluate_features"),
}


class EndedError(RuntimeError):
    """Training cannot continue, though the settings are valid. The message is one sentence."""


class NonFiniteError(EndedError):
    """A loss or a tensor of the state became infinite or NaN."""


class WriteError(EndedError):
    """The run's folder cannot be written, for example because the disk is full."""


@exiting_on_sigterm()
def fit(trainer: "Trainer") -> signal.Signals | None:
    """Trains from the trainer's current step to the last, writing to the trainer's folder.

    Returns:
        The signal that stopped training before the last step or its samples; the run is saved. Otherwise None.

    Raises:
        SettingsError, DataError, MetricsError, MissingExtraError, EndedError: one sentence.
    """
    config = trainer.config
    if config.wandb:
        require_wandb()
    tracker = trainer.distributed.only_on_first(
        lambda: FidTracker(config, trainer.device, trainer.best, data=trainer.data)
    )
    if trainer.saved_step is None:
        trainer.open_folder()
    elif trainer.on_first(lambda: _prepare_to_resume(trainer)):
        say(trainer.console, f"The run is at its last step, {config.steps}; train on with --steps and a larger number.")
        return None
    try:
        return _Fit(trainer, tracker).run()
    finally:
        trainer.images.close()


def require_no_checkpoint(folder: Path, config: TrainingConfig) -> None:
    """Refuses the folder of a run that can be resumed."""
    if list_checkpoints(folder):
        command = resume_command(folder, config)
        how = f"resume it with {command!r}" if command else "resume it"
        raise CheckpointError(f"run {str(folder)!r} has a checkpoint already; {how}, or give another out")


def prepare_folder(folder: Path, config: TrainingConfig) -> None:
    """Makes the folder of a new run, which has no checkpoint; deletes files of an earlier start there."""
    require_no_checkpoint(folder, config)
    try:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        logs = ("samples/*.png", "tensorboard/events.*", "metrics.jsonl", WANDB_ID_FILE)
        for stale in [path for pattern in logs for path in folder.glob(pattern)]:
            stale.unlink()
        shutil.rmtree(folder / NON_FINITE_FOLDER, ignore_errors=True)
        replace_file(folder / CONFIG_FILE, to_toml(config).encode())
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise write_error(error, folder, config) from None
        raise CheckpointError(f"run folder {str(folder)!r} cannot be written: {error.strerror}") from None


def _prepare_to_resume(trainer: "Trainer") -> bool:
    """Cleans up after an interruption; returns whether the run is finished."""
    folder, step = trainer.folder, trainer.step_count
    finished = step == trainer.config.steps and not _lacks_samples(trainer)
    for damaged in set_aside_after(folder, step):
        say(trainer.console, f"The damaged checkpoint is kept as {damaged}")
    trainer.drop_checkpoints()
    if not finished:
        replace_file(folder / CONFIG_FILE, to_toml(trainer.config).encode())
    return finished


def _lacks_samples(trainer: "Trainer") -> bool:
    """Whether the samples of the current step are due and missing."""
    step, config = trainer.step_count, trainer.config
    due = step > 0 and (step % config.sample_every == 0 or step == config.steps)
    return due and not (trainer.folder / "samples" / f"{step}.png").exists()


class _Fit:
    """One call of :func:`fit`; only the first rank has a reporter."""

    def __init__(self, trainer: "Trainer", tracker: FidTracker | None) -> None:
        self.trainer = trainer
        self.tracker = tracker
        self.config = trainer.config
        self.reporter: Reporter | None = None
        self.on_step, self.on_end = (
            [getattr(callback, name) for callback in trainer.callbacks if hasattr(callback, name)]
            for name in ("on_step", "on_end")
        )

    def run(self) -> signal.Signals | None:
        trainer, config = self.trainer, self.config
        self._describe()
        began = time.perf_counter()
        ended = False
        # Loggers may wait for a network when they begin and end. There is nothing to save then, so signals are handled
        # as usual.
        with self._reporting(), StopSignals() as stop:
            # A signal may have interrupted the samples of the current step.
            sampled = not trainer.on_first(lambda: _lacks_samples(trainer)) or self._sample(stop)
            # Ranks that stopped at different steps would wait for each other forever.
            while trainer.step_count < config.steps and not trainer.distributed.any(ended or stop.received is not None):
                trainer.step()
                step = trainer.step_count
                last = step == config.steps
                if self.reporter:
                    self.reporter.advance(step)
                figures: dict[str, float] = {}
                if step % config.log_every == 0 or last:
                    require_finite(trainer)
                    figures, improved = self._report()
                    if improved:
                        self._save()
                if step % config.sample_every == 0 or last:
                    sampled = self._sample(stop)
                if step % config.checkpoint_every == 0:
                    self._save()
                if self.on_step:
                    with preserved_random_state():
                        answers = [function(trainer, step, figures) for function in self.on_step]
                        ended = True in answers
            self._save()
        step = trainer.step_count
        by_callback = trainer.distributed.any(ended)
        if (step < config.steps or not sampled) and (stop.received is not None or not by_callback):
            before = "" if sampled else ", before its samples,"
            command = resume_command(trainer.folder, config)
            resume = f"Resume with:\n  {command}" if command else "Run the script again to resume"
            say(trainer.console, f"Stopped at step {step} of {config.steps}{before} and saved. {resume}")
            return stop.received or signal.SIGTERM  # SIGTERM where another rank received the signal
        if (best := trainer.best) is not None:
            say(trainer.console, f"The best FID was {best.fid:.4g} at step {best.step}, whose checkpoint is kept")
        for function in self.on_end:
            with preserved_random_state():
                function(trainer)
        seconds = round(time.perf_counter() - began)
        command = _command("generate", trainer.folder, config)
        say(
            trainer.console,
            f"Trained to step {step} in {seconds // 60}:{seconds % 60:02d}. Samples are in {trainer.folder / 'samples'}"
            + (f"; make more with:\n  {command}" if command else ""),
        )
        return None

    def _describe(self) -> None:
        trainer, config = self.trainer, self.config
        world_size = trainer.distributed.world_size
        together = f", {world_size} ranks" if world_size > 1 else ""
        model = config.model
        if model == OWN:
            model = f"{type(trainer.generator).__name__} and {type(trainer.discriminator).__name__}"
        say(
            trainer.console,
            f"Training {model} at {config.resolution}x{config.resolution} on {trainer.device}{together} with "
            f"{count_of(trainer.images)}images of {config.data}, into {trainer.folder}",
        )
        notes = [*trainer.images.notes, trainer.images.resume_note, *trainer.notes, self._early_end()]
        for line in (
            trainer.images.note,
            f"Engine: {trainer.mode} ({trainer.mode_reason})",
            *(f"note: {note}" for note in notes if note),
        ):
            say(trainer.console, line, "dim")
        if balance := trainer.gan_step.loss.balance():
            say(
                trainer.console,
                f"Where real and generated images cannot be told apart D(x) and D(G(z)) are {balance[0]:g}, and G, the "
                f"generator's loss, is {balance[1]:.3f}",
            )

    def _early_end(self) -> str:
        """A sentence if the run ends before its networks are fully grown."""
        schedule, steps = self.trainer.schedule, self.config.steps
        if steps > schedule.growing_steps:
            return ""
        first, last = schedule.resolutions[0], schedule.resolutions[-1]
        end = schedule.at(steps - 1)
        unfinished = " that has not faded in" if end.fade < 1 else ""
        return (
            f"growing from {first}x{first} to {last}x{last} takes more than {schedule.growing_steps} steps, and the "
            f"run ends at step {steps}, at {end.resolution}x{end.resolution}{unfinished}; see grow_stable_steps and "
            "grow_fade_steps"
        )

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        trainer = self.trainer

        def begin() -> None:
            self.reporter = Reporter(
                trainer.folder,
                self.config,
                step=trainer.step_count,
                num_images=trainer.num_images,
                device=trainer.device,
                console=trainer.console,
            )

        trainer.on_first(begin)
        with self.reporter or nullcontext():
            yield
            trainer.on_first(lambda: self.reporter.close())

    def _sample(self, stop: StopSignals) -> bool:
        """Draws samples on the first rank; returns on all ranks whether they were finished before any signal."""

        def draw() -> bool:
            sample = stop.cut_short(self.trainer.sample_grid)
            if sample is not None:
                self.reporter.samples(self.trainer.step_count, sample.images, **sample.layout)
            return sample is not None

        return self.trainer.on_first(draw)

    def _report(self) -> tuple[dict[str, float], bool]:
        """Reports the figures; returns them, and on all ranks whether a new best FID was measured."""
        trainer = self.trainer
        step = trainer.step_count
        trainer.all_reduce_figures_()
        reading = trainer.statistics.read(step)
        loss = self.config.loss if isinstance(self.config.loss, str) else ""
        history, findings = diagnose(trainer.history, reading, loss)
        figures = trainer.mean_losses() | trainer.health_figures(reading)
        every = self.config.evaluate_every

        def report() -> bool:
            improved = False
            if every and step % every == 0:
                figures["fid"], improved = self.tracker.measure(trainer.ema.module, step)
                trainer.best = self.tracker.best
            ongoing = trainer.history.ongoing
            self.reporter.report(step, figures, findings, num_images=trainer.num_images, ongoing=ongoing)
            return improved

        improved = trainer.on_first(report)
        # The interval of the last report may be shorter. Its sums are kept, for a run that is resumed with more steps.
        if step % self.config.log_every == 0:
            trainer.reset_figures()
            trainer.history = history
        return figures, improved

    def _save(self) -> None:
        if self.trainer.saved_step != self.trainer.step_count:
            self.trainer.on_first(lambda: self.reporter.sync())
            self.trainer.save()


def count_of(images: ImageSource) -> str:
    """The number of images with a space behind it; empty if unknown."""
    try:
        return f"{len(images):,} "
    except TypeError:  # an iterable Dataset has no length
        return ""


def require_finite(trainer: "Trainer") -> None:
    """Ends a run whose losses or tensors are not all finite; its state is saved in a folder that is never resumed."""
    bad = trainer.first_non_finite()
    if bad is None:
        return
    tensors = trainer.tensors()

    def end() -> None:
        checkpoint = latest_checkpoint(trainer.folder)
        kept = f"the latest checkpoint, {checkpoint}, is from before" if checkpoint else "no checkpoint was written"
        saved = trainer.folder / NON_FINITE_FOLDER / str(trainer.step_count)
        shutil.rmtree(saved, ignore_errors=True)
        state = trainer.state() | {"first_non_finite": bad._asdict()}
        save_checkpoint(trainer.folder, trainer.step_count, tensors, state, folder=NON_FINITE_FOLDER)
        finding = non_finite_values(*bad)
        raise NonFiniteError(
            f"{finding.name}: {finding.evidence}; the state at step {trainer.step_count} is in {saved}, for "
            f"inspection; {kept}; try {finding.remedy}"
        )

    trainer.on_first(end)


def write_error(error: OSError, run: Path, config: TrainingConfig) -> WriteError:
    """The error for a folder that cannot be written: it names the latest checkpoint and what to do."""
    checkpoint = latest_checkpoint(run)
    kept = f"the latest checkpoint, {checkpoint}, is whole" if checkpoint else "no checkpoint was written"
    cure = "make room" if error.errno in _NO_ROOM else "put that right"
    command = resume_command(run, config)
    again = (f"resume with {command!r}" if command else "run the script again") if checkpoint else "start again"
    return WriteError(
        f"run folder {str(run)!r} cannot be written: {error.strerror or error}; {kept}; {cure} and {again}"
    )


def resume_command(run: Path, config: TrainingConfig) -> str:
    """The command that resumes a run; empty if only its script can resume it."""
    return "" if config.data.startswith("<") else _command("train --resume", run, config)


def _command(command: str, run: Path, config: TrainingConfig) -> str:
    if config.model == OWN:
        return ""
    model = f" --model {config.model}" if ":" in config.model else ""
    return f"fastgan {command} {shlex.quote(str(run))}{model}"


def kept_settings(config: TrainingConfig) -> dict[str, Any]:
    """The settings that the weights depend on, to be stored in checkpoints."""
    return {name: value for name, value in config.as_plain().items() if name not in _NOT_OF_THE_STATE}

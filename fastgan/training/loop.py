"""A run from its first step, or its latest checkpoint, to its last."""

import dataclasses
import os
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console

from fastgan.data import load_dataset
from fastgan.data.gaussians import has_points
from fastgan.data.sources import ResidentImages
from fastgan.sampling import columns_by_class, draw_latents, labels_in_turn, render
from fastgan.training.checkpoints import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    misfit,
    require_checkpoint,
    save_checkpoint,
)
from fastgan.training.config import SettingsError, TrainingConfig, load_settings, to_toml
from fastgan.training.device import resolve_device
from fastgan.training.engine import Engine
from fastgan.training.health import judge, non_finite_values
from fastgan.training.reporting import Reporter

_CONFIG_FILE = "config.toml"
_NON_FINITE = "non_finite"
_NUM_SAMPLES = 64
_NUM_POINTS = 1000


class NonFiniteError(RuntimeError):
    """Training has left the finite numbers. The message is one sentence."""


def start_run(config: TrainingConfig, run: Path, *, console: Console) -> signal.Signals | None:
    """Trains from the start, into a folder without a checkpoint; what an earlier start left there is replaced.

    Returns:
        The signal that ended it before its last step, after saving, or None.

    Raises:
        SettingsError, DataError, CheckpointError: for what cannot be trained; one sentence, before anything is written.
        NonFiniteError: see :func:`resume_run`.
    """
    if latest_checkpoint(run) is not None:
        raise CheckpointError(
            f"run {str(run)!r} has a checkpoint already; go on with {resume_command(run)!r}, or give another --out"
        )
    engine = make_engine(config)
    try:
        (run / "samples").mkdir(parents=True, exist_ok=True)
        for stale in (*run.glob("samples/*.png"), *run.glob("tensorboard/events.*"), *run.glob("metrics.jsonl")):
            stale.unlink()
        shutil.rmtree(run / _NON_FINITE, ignore_errors=True)
        _write_config(config, run)
    except OSError as error:
        raise CheckpointError(f"run folder {str(run)!r} cannot be written: {error.strerror}") from None
    return _train(engine, run, console)


def resume_run(run: Path, *, steps: int | None = None, console: Console) -> signal.Signals | None:
    """Goes on from the latest checkpoint with the settings of the run's ``config.toml``, as if never interrupted.

    Args:
        run: the run's folder.
        steps: a new last step, in place of the one in the settings.
        console: where to show progress.

    Returns:
        As :func:`start_run`.

    Raises:
        SettingsError, DataError, CheckpointError: for a folder that is no run, or cannot go on; one sentence.
        NonFiniteError: when a loss or a tensor of the state is infinite or not a number. The state is saved in
            ``RUN/non_finite/STEP`` then, which is no checkpoint: the latest checkpoint is from before.
    """
    checkpoint = require_checkpoint(run)
    config = TrainingConfig.from_mapping(load_settings(run / _CONFIG_FILE), source=str(run / _CONFIG_FILE))
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    engine = make_engine(config)
    tensors, state = load_checkpoint(checkpoint, *engine.tensors())
    try:
        engine.load(tensors, state)
    except SettingsError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise misfit(checkpoint, error) from None
    if engine.step_count > config.steps:
        raise SettingsError(f"run {str(run)!r} is at step {engine.step_count} already, past --steps {config.steps}")
    if engine.step_count == config.steps:
        console.print(f"The run is at its last step, {config.steps}; train on with --steps and a larger number.")
        return None
    _write_config(config, run)
    return _train(engine, run, console)


def resume_command(run: Path) -> str:
    """The command that goes on with a run."""
    return f"fastgan train --resume {shlex.quote(str(run))}"


def make_engine(config: TrainingConfig) -> Engine:
    """The engine of a run that begins, on the data and the device that the settings name."""
    device = resolve_device(config.device)
    dataset = load_dataset(config.data, resolution=config.resolution)
    labels = dataset.labels if config.conditional else None
    return Engine(config, ResidentImages(dataset.images, labels, device, name=dataset.name), device)


def _write_config(config: TrainingConfig, run: Path) -> None:
    temporary = run / f".{_CONFIG_FILE}.partial"
    temporary.write_text(to_toml(config), encoding="utf-8")
    os.replace(temporary, run / _CONFIG_FILE)


def _train(engine: Engine, run: Path, console: Console) -> signal.Signals | None:
    config = engine.config
    console.print(
        f"Training {config.model} at {config.resolution}x{config.resolution} on {engine.device} with "
        f"{len(engine.source):,} images of {config.data}, into {run}",
        highlight=False,
        markup=False,
    )
    _note_early_end(engine, console)
    if balance := engine.objective.loss.balance():
        console.print(
            f"Where real and generated images cannot be told apart D(x) and D(G(z)) are {balance[0]:g}, and G, the "
            f"generator's loss, is {balance[1]:.3f}",
            highlight=False,
        )
    num_samples = _NUM_POINTS if has_points(engine.source.image_shape) else _NUM_SAMPLES
    latents = draw_latents(num_samples, config.latent_dim, seed=config.seed)
    labels = columns = None
    if config.conditional:
        num_classes = engine.architecture["num_classes"]
        labels = labels_in_turn(num_samples, num_classes)
        columns = columns_by_class(num_samples, num_classes)
    began = time.perf_counter()
    saved = engine.step_count
    with StopSignals() as stop, _reporter(engine, run, console) as reporter:
        while engine.step_count < config.steps and stop.received is None:
            engine.step()
            step = engine.step_count
            last = step == config.steps
            reporter.advance(step)
            if step % config.log_every == 0 or last:
                _require_finite(engine, run)
                _report(engine, reporter)
            if step % config.sample_every == 0 or last:
                reporter.samples(step, render(engine.averaged.module, latents, labels), columns=columns)
            if step % config.checkpoint_every == 0:
                _save(engine, run)
                saved = step
        if saved != engine.step_count or latest_checkpoint(run) is None:
            _save(engine, run)
    step = engine.step_count
    if step < config.steps:
        console.print(
            f"Stopped at step {step} of {config.steps} and saved. Go on with:\n  {resume_command(run)}",
            highlight=False,
            markup=False,
        )
        return stop.received
    seconds = round(time.perf_counter() - began)
    console.print(
        f"Trained to step {step} in {seconds // 60}:{seconds % 60:02d}. Samples are in {run / 'samples'}; make more "
        f"with:\n  fastgan generate {shlex.quote(str(run))}",
        highlight=False,
        markup=False,
    )
    return None


def _note_early_end(engine: Engine, console: Console) -> None:
    schedule, steps = engine.schedule, engine.config.steps
    if steps > schedule.growing_steps:
        return
    first, last = schedule.resolutions[0], schedule.resolutions[-1]
    end = schedule.at(steps - 1)
    unfinished = " that has not faded in" if end.fade < 1 else ""
    console.print(
        f"note: growing from {first}x{first} to {last}x{last} takes more than {schedule.growing_steps} steps, and the "
        f"run ends at step {steps}, at {end.resolution}x{end.resolution}{unfinished}; see grow_stable_steps and "
        "grow_fade_steps",
        style="dim",
        markup=False,
        highlight=False,
    )


def _reporter(engine: Engine, run: Path, console: Console) -> Reporter:
    return Reporter(
        run,
        engine.config,
        step=engine.step_count,
        num_images=engine.num_images,
        going_on=engine.history.going_on,
        console=console,
    )


def _report(engine: Engine, reporter: Reporter) -> None:
    step = engine.step_count
    reading = engine.statistics.read(step)
    history, findings = judge(engine.history, reading, engine.config.loss)
    figures = engine.mean_losses() | engine.health_figures(reading)
    reporter.report(step, figures, findings, num_images=engine.num_images)
    # The last report may cut an interval short; its sums stay, for a run that goes on with more steps.
    if step % engine.config.log_every == 0:
        engine.reset_losses()
        engine.history = history


def _save(engine: Engine, run: Path) -> None:
    _require_finite(engine, run)
    save_checkpoint(run, engine.step_count, engine.tensors(), engine.state())


def _require_finite(engine: Engine, run: Path) -> None:
    bad = engine.first_non_finite()
    if bad is None:
        return
    checkpoint = latest_checkpoint(run)
    kept = f"the latest checkpoint, {checkpoint}, is from before" if checkpoint else "no checkpoint was written"
    shutil.rmtree(run / _NON_FINITE / str(engine.step_count), ignore_errors=True)
    state = engine.state() | {"first_non_finite": bad._asdict()}
    saved = save_checkpoint(run, engine.step_count, engine.tensors(), state, folder=_NON_FINITE)
    finding = non_finite_values(*bad)
    raise NonFiniteError(
        f"{finding.name}: {finding.evidence}; the state at step {engine.step_count} is in {saved}, to be looked at; "
        f"{kept}; try {finding.remedy}"
    )


class StopSignals:
    """Notes SIGINT and SIGTERM instead of dying of them; a second SIGINT raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

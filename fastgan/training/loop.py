"""A run from its first step, or its latest checkpoint, to its last."""

import contextlib
import dataclasses
import errno
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from torch import Tensor

from fastgan.console import warner
from fastgan.data.gaussians import has_points
from fastgan.sampling import columns_by_class, draw_latents, labels_in_turn, render
from fastgan.training.assembly import find_largest_batch, make_engine
from fastgan.training.best import Best, FidTracker
from fastgan.training.checkpoints import (
    CheckpointError,
    find_checkpoint,
    latest_checkpoint,
    misfit,
    save_checkpoint,
)
from fastgan.training.config import SettingsError, TrainingConfig, load_settings, to_toml
from fastgan.training.device import resolve_device
from fastgan.training.engine import Engine
from fastgan.training.files import replace_file
from fastgan.training.health import judge, non_finite_values
from fastgan.training.loggers import WANDB_ID_FILE
from fastgan.training.ranks import Ranks, has_restarted
from fastgan.training.reporting import Reporter, SilentReporter
from fastgan.training.resuming import altered_settings, kept_settings, require_data, restore
from fastgan.training.retention import drop_checkpoints, set_aside_after
from fastgan.training.signals import StopSignals, exiting_on_sigterm

T = TypeVar("T")

_CONFIG_FILE = "config.toml"
_NON_FINITE = "non_finite"
_NUM_SAMPLES = 64
_NUM_POINTS = 1000
# The disk, the quota, or the size that a file may have.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class EndedError(RuntimeError):
    """Training could not go on, by no fault of what was asked for. The message is one sentence."""


class NonFiniteError(EndedError):
    """Training has left the finite numbers."""


class WriteError(EndedError):
    """The disk is full, or does not take what a run writes for another reason."""


def start_run(
    config: TrainingConfig, run: Path, *, largest_batch: bool = False, console: Console
) -> signal.Signals | None:
    """Trains from the start, into a folder without a checkpoint; what an earlier start left there is replaced.

    Where torchrun has started this process it trains together with the others, and only the first writes and tells. One
    that torchrun has started again, after another failed, goes on from the latest checkpoint.

    Args:
        config: the settings.
        run: the run's folder.
        largest_batch: take the largest batch that fits on the GPU in place of ``batch_size``.
        console: where to show progress.

    Returns:
        The signal that ended it before its last step, after saving, or None.

    Raises:
        SettingsError, DataError, CheckpointError: for what cannot be trained; one sentence, before anything is written.
        NonFiniteError, WriteError: see :func:`resume_run`.
    """
    with contextlib.ExitStack() as stack:
        with exiting_on_sigterm():
            ranks = stack.enter_context(Ranks.of_environment())
            begun = ranks.of_first(lambda: _has_begun(run))
        if begun:
            return _resume(ranks, stack, run, None, console)
        with exiting_on_sigterm():
            device = resolve_device(config.device)
            ranks.use(device)
            if largest_batch:
                config = dataclasses.replace(config, batch_size=find_largest_batch(config, device, ranks))
            engine = make_engine(config, ranks)
            stack.callback(engine.source.close)
            tracker = ranks.by_first(lambda: FidTracker(config, device))
        ranks.by_first(lambda: _prepare_folder(config, run))
        return _train(engine, tracker, run, console, saved=None)


def _has_begun(run: Path) -> bool:
    """Whether the run is to go on from a checkpoint, as the ranks do that torchrun starts again.

    Raises:
        CheckpointError: where there is one and nothing was started again; one sentence.
    """
    if latest_checkpoint(run) is None:
        return False
    if has_restarted():
        return True
    raise CheckpointError(
        f"run {str(run)!r} has a checkpoint already; go on with {resume_command(run)!r}, or give another --out"
    )


def _prepare_folder(config: TrainingConfig, run: Path) -> None:
    try:
        (run / "samples").mkdir(parents=True, exist_ok=True)
        logs = ("samples/*.png", "tensorboard/events.*", "metrics.jsonl", WANDB_ID_FILE)
        for stale in [path for pattern in logs for path in run.glob(pattern)]:
            stale.unlink()
        shutil.rmtree(run / _NON_FINITE, ignore_errors=True)
        _write_config(config, run)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _write_error(error, run) from None
        raise CheckpointError(f"run folder {str(run)!r} cannot be written: {error.strerror}") from None


def resume_run(run: Path, *, steps: int | None = None, console: Console) -> signal.Signals | None:
    """Goes on from the latest checkpoint with the settings of the run's ``config.toml``, as if never interrupted.

    A checkpoint that is damaged is passed over with a warning, and renamed. So is told what differs in ``config.toml``
    from the settings that the checkpoint was trained with.

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
        WriteError: when the disk is full, or does not take what is written for another reason. The checkpoints from
            before are whole, and what there is of another is removed.
    """
    with contextlib.ExitStack() as stack:
        with exiting_on_sigterm():
            ranks = stack.enter_context(Ranks.of_environment())
        return _resume(ranks, stack, run, steps, console)


def _resume(
    ranks: Ranks, stack: contextlib.ExitStack, run: Path, steps: int | None, console: Console
) -> signal.Signals | None:
    warn = warner(console)

    def find() -> tuple[Path, dict[str, Any], TrainingConfig]:
        found = find_checkpoint(run, warn=warn)
        config = TrainingConfig.from_mapping(load_settings(run / _CONFIG_FILE), source=str(run / _CONFIG_FILE))
        require_data(run, config.data)
        return *found, config

    with exiting_on_sigterm():
        checkpoint, state, config = ranks.of_first(find)
        if steps is not None:
            config = dataclasses.replace(config, steps=steps)
        device = resolve_device(config.device)
        ranks.use(device)
        engine = make_engine(config, ranks)
        stack.callback(engine.source.close)
        restore(engine, checkpoint, state)
        tracker = ranks.by_first(lambda: FidTracker(config, device, _best_of(checkpoint, state)))
    if altered := altered_settings(config, state):
        warn(f"{run / _CONFIG_FILE} was altered and is followed from here on: {', '.join(altered)}")
    step = engine.step_count
    if step > config.steps:
        raise SettingsError(f"run {str(run)!r} is at step {step} already, past --steps {config.steps}")

    def prepare() -> bool:
        finished = step == config.steps and not _lacks_samples(engine, run)
        for damaged in set_aside_after(run, step):
            console.print(f"The damaged checkpoint is kept as {damaged}", highlight=False, markup=False)
        _drop_checkpoints(tracker, config, run)  # which may have been cut short
        if not finished:
            _write_config(config, run)
        return finished

    if _of_first(ranks, run, prepare):
        console.print(f"The run is at its last step, {config.steps}; train on with --steps and a larger number.")
        return None
    return _train(engine, tracker, run, console, saved=step)


def _of_first(ranks: Ranks, run: Path, function: Callable[[], T]) -> T:
    """As :meth:`Ranks.of_first`, of what writes in the run's folder.

    Raises:
        WriteError: where it cannot be written.
    """

    def writing() -> T:
        try:
            return function()
        except OSError as error:
            raise _write_error(error, run) from error

    return ranks.of_first(writing)


def resume_command(run: Path) -> str:
    """The command that goes on with a run."""
    return f"fastgan train --resume {shlex.quote(str(run))}"


def _write_config(config: TrainingConfig, run: Path) -> None:
    replace_file(run / _CONFIG_FILE, to_toml(config).encode())


def _train(
    engine: Engine, tracker: FidTracker | None, run: Path, console: Console, *, saved: int | None
) -> signal.Signals | None:
    """Trains to the last step.

    Args:
        engine: of the run, at its first step or where a checkpoint left off.
        tracker: on the first rank.
        run: the run's folder.
        console: where to show progress.
        saved: the step that a checkpoint is of; None where there is none.
    """
    config, ranks = engine.config, engine.ranks
    together = f", {ranks.world_size} ranks" if ranks.world_size > 1 else ""
    console.print(
        f"Training {config.model} at {config.resolution}x{config.resolution} on {engine.device}{together} with "
        f"{len(engine.source):,} images of {config.data}, into {run}",
        highlight=False,
        markup=False,
    )
    for note in (engine.source.note, f"Steps run in form {engine.form!r}: {engine.form_reason}"):
        console.print(note, style="dim", highlight=False, markup=False)
    for note in engine.notes:
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)
    _note_early_end(engine, console)
    if balance := engine.objective.loss.balance():
        console.print(
            f"Where real and generated images cannot be told apart D(x) and D(G(z)) are {balance[0]:g}, and G, the "
            f"generator's loss, is {balance[1]:.3f}",
            highlight=False,
        )
    sampling = _sampling(engine)
    began = time.perf_counter()
    try:
        # Loggers may wait for a network when they begin and end; nothing is to be saved then, and signals do as usual.
        with _reporter(engine, run, console) as reporter, StopSignals() as stop:
            # A signal may have cut them short.
            lacks_samples = _of_first(ranks, run, lambda: _lacks_samples(engine, run))
            sampled = not lacks_samples or _sample(engine, sampling, stop, run, reporter)
            # Ranks that did not stop at one step would wait for each other for good.
            while engine.step_count < config.steps and not ranks.any(stop.received is not None):
                engine.step()
                step = engine.step_count
                last = step == config.steps
                reporter.advance(step)
                if step % config.log_every == 0 or last:
                    _require_finite(engine, run)
                    if _report(engine, tracker, run, reporter):
                        _save(engine, tracker, run, reporter)
                        saved = step
                if step % config.sample_every == 0 or last:
                    sampled = _sample(engine, sampling, stop, run, reporter)
                if step % config.checkpoint_every == 0 and saved != step:
                    _save(engine, tracker, run, reporter)
                    saved = step
            if saved != engine.step_count:
                _save(engine, tracker, run, reporter)
    except OSError as error:
        raise _write_error(error, run) from error
    step = engine.step_count
    if step < config.steps or not sampled:
        before = "" if sampled else ", before its samples,"
        console.print(
            f"Stopped at step {step} of {config.steps}{before} and saved. Go on with:\n  {resume_command(run)}",
            highlight=False,
            markup=False,
        )
        return stop.received or signal.SIGTERM  # which another rank received
    if tracker is not None and tracker.best is not None:
        console.print(
            f"The best FID was {tracker.best.fid:.4g} at step {tracker.best.step}, whose checkpoint is kept",
            highlight=False,
        )
    seconds = round(time.perf_counter() - began)
    console.print(
        f"Trained to step {step} in {seconds // 60}:{seconds % 60:02d}. Samples are in {run / 'samples'}; make more "
        f"with:\n  fastgan generate {shlex.quote(str(run))}",
        highlight=False,
        markup=False,
    )
    return None


class _Sampling(NamedTuple):
    """What renders the samples of a run, of the same latents each time, and the columns of their grid."""

    render: Callable[[], Tensor]
    columns: int | None


def _sampling(engine: Engine) -> _Sampling:
    config = engine.config
    num_samples = _NUM_POINTS if has_points(engine.source.image_shape) else _NUM_SAMPLES
    weights = next(engine.averaged.module.parameters())
    latents = draw_latents(num_samples, config.latent_dim, seed=config.seed).to(weights.dtype)
    labels = columns = None
    if config.conditional:
        num_classes = engine.architecture["num_classes"]
        labels = labels_in_turn(num_samples, num_classes)
        columns = columns_by_class(num_samples, num_classes)
    return _Sampling(lambda: render(engine.averaged.module, latents, labels), columns)


def _sample(
    engine: Engine, sampling: _Sampling, stop: StopSignals, run: Path, reporter: Reporter | SilentReporter
) -> bool:
    """Draws samples, on the first rank, and tells all of them whether no signal came to it first."""

    def draw() -> bool:
        images = stop.cut_short(sampling.render)
        if images is not None:
            reporter.samples(engine.step_count, images, columns=sampling.columns)
        return images is not None

    return _of_first(engine.ranks, run, draw)


def _lacks_samples(engine: Engine, run: Path) -> bool:
    """Whether the samples of the present step are due and not there."""
    step = engine.step_count
    due = step > 0 and (step % engine.config.sample_every == 0 or step == engine.config.steps)
    return due and not (run / "samples" / f"{step}.png").exists()


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


def _reporter(engine: Engine, run: Path, console: Console) -> Reporter | SilentReporter:
    reporters: list[Reporter] = []

    def begin() -> None:
        reporter = Reporter(
            run,
            engine.config,
            step=engine.step_count,
            num_images=engine.num_images,
            going_on=engine.history.going_on,
            device=engine.device,
            console=console,
        )
        reporters.append(reporter)

    _of_first(engine.ranks, run, begin)
    return reporters[0] if reporters else SilentReporter()


def _report(engine: Engine, tracker: FidTracker | None, run: Path, reporter: Reporter | SilentReporter) -> bool:
    """Reports the figures, and tells whether the FID, where it is due, is the best so far; alike on all ranks."""
    step = engine.step_count
    engine.agree()
    reading = engine.statistics.read(step)
    history, findings = judge(engine.history, reading, engine.config.loss)
    figures = engine.mean_losses() | engine.health_figures(reading)
    every = engine.config.evaluate_every

    def report() -> bool:
        improved = False
        if every and step % every == 0:
            figures["fid"], improved = tracker.measure(engine.averaged.module, step)
        reporter.report(step, figures, findings, num_images=engine.num_images)
        return improved

    improved = _of_first(engine.ranks, run, report)
    # The last report may cut an interval short; its sums stay, for a run that goes on with more steps.
    if step % engine.config.log_every == 0:
        engine.reset_losses()
        engine.history = history
    return improved


def _best_of(checkpoint: Path, state: dict[str, Any]) -> Best | None:
    try:
        return Best.of_state(state["best"]) if "best" in state else None
    except ValueError as error:
        raise misfit(checkpoint, error) from None


def _save(engine: Engine, tracker: FidTracker | None, run: Path, reporter: Reporter | SilentReporter) -> None:
    _require_finite(engine, run)
    engine.agree()
    tensors = engine.tensors()

    def save() -> None:
        reporter.sync()
        state = engine.state() | {"settings": kept_settings(engine.config)}
        if tracker.best is not None:
            state["best"] = tracker.best._asdict()
        save_checkpoint(run, engine.step_count, tensors, state)
        _drop_checkpoints(tracker, engine.config, run)

    _of_first(engine.ranks, run, save)


def _drop_checkpoints(tracker: FidTracker, config: TrainingConfig, run: Path) -> None:
    protected = [] if tracker.best is None else [tracker.best.step]
    drop_checkpoints(run, keep_last=config.keep_checkpoints, keep_every=config.keep_every, protected=protected)


def _write_error(error: OSError, run: Path) -> WriteError:
    checkpoint = latest_checkpoint(run)
    kept = f"the latest checkpoint, {checkpoint}, is whole" if checkpoint else "no checkpoint was written"
    cure = "make room" if error.errno in _NO_ROOM else "put that right"
    again = f"go on with {resume_command(run)!r}" if checkpoint else "start again"
    return WriteError(
        f"run folder {str(run)!r} cannot be written: {error.strerror or error}; {kept}; {cure} and {again}"
    )


def _require_finite(engine: Engine, run: Path) -> None:
    bad = engine.first_non_finite()
    if bad is None:
        return
    tensors = engine.tensors()

    def end() -> None:
        checkpoint = latest_checkpoint(run)
        kept = f"the latest checkpoint, {checkpoint}, is from before" if checkpoint else "no checkpoint was written"
        saved = run / _NON_FINITE / str(engine.step_count)
        shutil.rmtree(saved, ignore_errors=True)
        state = engine.state() | {"first_non_finite": bad._asdict()}
        save_checkpoint(run, engine.step_count, tensors, state, folder=_NON_FINITE)
        finding = non_finite_values(*bad)
        raise NonFiniteError(
            f"{finding.name}: {finding.evidence}; the state at step {engine.step_count} is in {saved}, to be looked "
            f"at; {kept}; try {finding.remedy}"
        )

    _of_first(engine.ranks, run, end)

"""Runs: a trainer is made from settings, or from the latest checkpoint in a folder, and fitted."""

import contextlib
import dataclasses
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastgan.console import warner
from fastgan.random_state import preserved_random_state
from fastgan.training.build import open_images, require_data
from fastgan.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    latest_checkpoint,
    misfit,
    replace_file,
    set_aside_after,
)
from fastgan.training.config import SettingsError, TrainingConfig, load_settings, to_toml
from fastgan.training.device import fits_on_gpu, largest_batch_size, resolve_device
from fastgan.training.distributed import Distributed, has_restarted
from fastgan.training.evaluate import Best, FidTracker
from fastgan.training.fit import NO_ROOM, NON_FINITE_FOLDER, Fit, kept_settings, resume_command, write_error
from fastgan.training.logging import WANDB_ID_FILE, import_wandb
from fastgan.training.signals import exiting_on_sigterm
from fastgan.training.trainer import Trainer

_CONFIG_FILE = "config.toml"


def start_run(
    config: TrainingConfig, run: Path, *, largest_batch: bool = False, console: Console
) -> signal.Signals | None:
    """Trains from the first step, into a folder without a checkpoint; files of an earlier start there are replaced.

    Under torchrun this process trains together with the others, and only the first rank writes. A process that torchrun
    has restarted after a failure resumes from the latest checkpoint.

    Args:
        config: the settings.
        run: the run's folder.
        largest_batch: use the largest batch that fits on the GPU instead of ``batch_size``.
        console: shows progress.

    Returns:
        The signal that stopped the run before its last step, after saving, or None.

    Raises:
        SettingsError, DataError, CheckpointError: for what cannot be trained; one sentence, before anything is written.
        NonFiniteError, WriteError: see :func:`resume_run`.
    """
    with contextlib.ExitStack() as stack:
        with exiting_on_sigterm():
            distributed = stack.enter_context(Distributed.from_environment())
            resumes = distributed.on_first(lambda: _has_begun(run))
        if resumes:
            return _resume(distributed, stack, run, None, console)
        with exiting_on_sigterm():
            device = resolve_device(config.device)
            distributed.use(device)
            if largest_batch:
                config = dataclasses.replace(config, batch_size=find_largest_batch(config, device, distributed))
            trainer = make_trainer(config, distributed)
            stack.callback(trainer.images.close)
            tracker = distributed.only_on_first(lambda: FidTracker(config, device))
        distributed.only_on_first(lambda: _prepare_folder(config, run))
        return Fit(run, trainer, tracker, console).run(saved=None)


def resume_run(run: Path, *, steps: int | None = None, console: Console) -> signal.Signals | None:
    """Resumes from the latest checkpoint with the settings of the run's ``config.toml``, as if never interrupted.

    A damaged checkpoint is skipped with a warning, and renamed. Differences between ``config.toml`` and the settings
    that the checkpoint was trained with are reported.

    Args:
        run: the run's folder.
        steps: a new last step, instead of the one in the settings.
        console: shows progress.

    Returns:
        As :func:`start_run`.

    Raises:
        SettingsError, DataError, CheckpointError: for a folder that is no run, or cannot be resumed; one sentence.
        NonFiniteError: when a loss or a tensor of the state is infinite or NaN. The state is saved in
            ``RUN/non_finite/STEP`` then, which is no checkpoint: the latest checkpoint is from before.
        WriteError: when the folder cannot be written. The checkpoints from before are whole, and what was written of
            another is removed.
    """
    with contextlib.ExitStack() as stack:
        with exiting_on_sigterm():
            distributed = stack.enter_context(Distributed.from_environment())
        return _resume(distributed, stack, run, steps, console)


def make_trainer(config: TrainingConfig, distributed: Distributed | None = None) -> Trainer:
    """A new trainer of the networks, on the data and the device, that the settings describe.

    Args:
        config: the settings.
        distributed: the processes that share the run; this process by default.

    Raises:
        SettingsError, DataError: one sentence.
    """
    if config.wandb:
        import_wandb(config)
    distributed = distributed or Distributed()
    device = resolve_device(config.device)
    return Trainer.from_config(config, open_images(config, device, distributed), device, distributed=distributed)


@preserved_random_state()
def find_largest_batch(config: TrainingConfig, device: torch.device, distributed: Distributed) -> int:
    """The largest batch of all ranks together whose parts fit on the GPU of each, at the last resolution.

    Raises:
        SettingsError: on a CPU, or where no batch fits; one sentence.
    """
    if device.type != "cuda":
        raise SettingsError(
            f"the batch size 'auto' is the largest that fits on a GPU, and the run is on {device}; expected a number"
        )
    grown = dataclasses.replace(config, grow_from=0, batch_sizes="", lrs="", data_on_device="yes", batch_size=2)
    images = open_images(grown, device, Distributed())

    def try_out(batch_size: int) -> None:
        trainer = Trainer.from_config(dataclasses.replace(grown, batch_size=batch_size, engine="eager"), images, device)
        for _ in range(2):  # the second with the state of the optimizers
            trainer.step()

    fits = largest_batch_size(lambda size: fits_on_gpu(partial(try_out, size), device), 2 * config.accumulate)
    smallest = torch.tensor(fits or 0, device=device)
    distributed.all_reduce_min_(smallest)
    if not smallest:
        raise SettingsError(f"no batch fits on {device}, not even one of {2 * config.accumulate} images")
    return int(smallest) * distributed.world_size


def _altered_settings(config: TrainingConfig, state: dict[str, Any]) -> list[str]:
    """Differences to the settings that a checkpoint was trained with, such as ``lr 0.1 (was 0.2)``."""
    before = state.get("settings", {})
    now = kept_settings(config)
    return [f"{name} {now[name]!r} (was {before[name]!r})" for name in now if before.get(name, now[name]) != now[name]]


def _has_begun(run: Path) -> bool:
    """Whether the run is to be resumed, as by ranks that torchrun restarts.

    Raises:
        CheckpointError: for a run with a checkpoint that nothing has restarted; one sentence.
    """
    if latest_checkpoint(run) is None:
        return False
    if has_restarted():
        return True
    raise CheckpointError(
        f"run {str(run)!r} has a checkpoint already; resume it with {resume_command(run)!r}, or give another --out"
    )


def _prepare_folder(config: TrainingConfig, run: Path) -> None:
    try:
        (run / "samples").mkdir(parents=True, exist_ok=True)
        logs = ("samples/*.png", "tensorboard/events.*", "metrics.jsonl", WANDB_ID_FILE)
        for stale in [path for pattern in logs for path in run.glob(pattern)]:
            stale.unlink()
        shutil.rmtree(run / NON_FINITE_FOLDER, ignore_errors=True)
        _write_config(config, run)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise write_error(error, run) from None
        raise CheckpointError(f"run folder {str(run)!r} cannot be written: {error.strerror}") from None


def _write_config(config: TrainingConfig, run: Path) -> None:
    replace_file(run / _CONFIG_FILE, to_toml(config).encode())


def _resume(
    distributed: Distributed, stack: contextlib.ExitStack, folder: Path, steps: int | None, console: Console
) -> signal.Signals | None:
    warn = warner(console)

    def find() -> tuple[Path, dict[str, Any], TrainingConfig]:
        found = find_checkpoint(folder, warn=warn)
        config = TrainingConfig.from_mapping(load_settings(folder / _CONFIG_FILE), source=str(folder / _CONFIG_FILE))
        require_data(folder, config.data)
        return *found, config

    with exiting_on_sigterm():
        checkpoint, state, config = distributed.on_first(find)
        if steps is not None:
            config = dataclasses.replace(config, steps=steps)
        device = resolve_device(config.device)
        distributed.use(device)
        trainer = make_trainer(config, distributed)
        stack.callback(trainer.images.close)
        trainer.resume(checkpoint, state)
        tracker = distributed.only_on_first(lambda: FidTracker(config, device, _best_of(checkpoint, state)))
    if altered := _altered_settings(config, state):
        warn(f"{folder / _CONFIG_FILE} was altered and is followed from here on: {', '.join(altered)}")
    step = trainer.step_count
    if step > config.steps:
        raise SettingsError(f"run {str(folder)!r} is at step {step} already, past --steps {config.steps}")
    fit = Fit(folder, trainer, tracker, console)

    def prepare() -> bool:
        finished = step == config.steps and not fit.lacks_samples()
        for damaged in set_aside_after(folder, step):
            console.print(f"The damaged checkpoint is kept as {damaged}", highlight=False, markup=False)
        fit.drop_checkpoints()  # which may have been cut short
        if not finished:
            _write_config(config, folder)
        return finished

    if fit.on_first(prepare):
        console.print(f"The run is at its last step, {config.steps}; train on with --steps and a larger number.")
        return None
    return fit.run(saved=step)


def _best_of(checkpoint: Path, state: dict[str, Any]) -> Best | None:
    try:
        return Best(**state["best"]) if "best" in state else None
    except TypeError as error:
        raise misfit(checkpoint, error) from None

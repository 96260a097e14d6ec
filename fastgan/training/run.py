"""Runs of the command line: makes a trainer from settings or a run's folder, and fits it."""

import dataclasses
import signal
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from fastgan.models.own import Build, require_build
from fastgan.random_state import preserved_random_state
from fastgan.training.build import open_images, require_data
from fastgan.training.checkpoint import find_checkpoint, latest_checkpoint
from fastgan.training.config import SettingsError, TrainingConfig, load_settings
from fastgan.training.device import fits_on_gpu, largest_batch_size, resolve_device
from fastgan.training.distributed import Distributed, has_restarted
from fastgan.training.fit import CONFIG_FILE, fit, require_no_checkpoint
from fastgan.training.signals import exiting_on_sigterm
from fastgan.training.trainer import Trainer


@exiting_on_sigterm()
def start_run(
    config: TrainingConfig, run: Path, *, build: Build | None = None, largest_batch: bool = False, console: Console
) -> signal.Signals | None:
    """Trains from the first step, into a folder without a checkpoint; replaces files of an earlier start there.

    Under torchrun the processes train together, and only the first rank writes. A process that torchrun has restarted
    after a failure resumes from the latest checkpoint. ``largest_batch`` replaces ``batch_size`` by the largest batch
    that fits on the GPU; ``build`` as in :meth:`Trainer.from_config`.

    Returns:
        The signal that stopped the run before its last step, or None; either way the run is saved.

    Raises:
        SettingsError, DataError, CheckpointError: for a run that cannot be trained, before any file is written.
        NonFiniteError, WriteError: see :func:`resume_run`.
    """
    with Distributed.from_environment() as distributed:
        if distributed.on_first(lambda: _resumes(run, config)):
            return _resume(distributed, run, None, build, console)
        device = resolve_device(config.device)
        distributed.use(device)
        if largest_batch:
            config = dataclasses.replace(config, batch_size=find_largest_batch(config, device, distributed, build))
        return fit(Trainer.from_config(config, out=run, build=build, distributed=distributed, console=console))


@exiting_on_sigterm()
def resume_run(
    run: Path, *, steps: int | None = None, build: Build | None = None, console: Console
) -> signal.Signals | None:
    """Resumes from the latest checkpoint with the settings of the run's ``config.toml``, as if never interrupted.

    A damaged checkpoint is skipped with a warning, and renamed. Differences between ``config.toml`` and the
    checkpoint's settings are reported. ``steps`` replaces the setting of that name. Returns as :func:`start_run`.

    Raises:
        SettingsError, DataError, CheckpointError: for a folder that is not a run, or cannot be resumed; one sentence.
        NonFiniteError: when a loss or a tensor of the state is infinite or NaN. The state is saved in
            ``RUN/non_finite/STEP``, which is never resumed; the latest checkpoint is from before.
        WriteError: when the folder cannot be written. Earlier checkpoints stay intact, and an incomplete one is
            removed.
    """
    with Distributed.from_environment() as distributed:
        return _resume(distributed, run, steps, build, console)


def _resumes(run: Path, config: TrainingConfig) -> bool:
    """Whether a restarted run has a checkpoint. If none was restarted, one is refused, before data are read."""
    if has_restarted():
        return latest_checkpoint(run) is not None
    require_no_checkpoint(run, config)
    return False


def _resume(
    distributed: Distributed, folder: Path, steps: int | None, build: Build | None, console: Console
) -> signal.Signals | None:
    def find() -> TrainingConfig:
        if latest_checkpoint(folder) is None:
            find_checkpoint(folder)  # raises the error
        config = TrainingConfig.from_mapping(load_settings(folder / CONFIG_FILE), source=str(folder / CONFIG_FILE))
        require_data(folder, config.data)
        return config

    config = distributed.on_first(find)
    require_build(folder, config.model, build)
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    distributed.use(resolve_device(config.device))
    trainer = Trainer.from_config(config, out=folder, build=build, distributed=distributed, console=console)
    trainer.resume()
    return fit(trainer)


@preserved_random_state()
def find_largest_batch(
    config: TrainingConfig, device: torch.device, distributed: Distributed, build: Build | None = None
) -> int:
    """The largest batch size of all ranks together whose shards fit on every rank's GPU, at the last resolution."""
    if device.type != "cuda":
        raise SettingsError(
            f"the batch size 'auto' is the largest that fits on a GPU, and the run is on {device}; expected a number"
        )
    grown = dataclasses.replace(config, grow_from=0, batch_sizes="", lrs="", data_on_device="yes", batch_size=2)
    images = open_images(grown, device, Distributed())

    def try_out(batch_size: int) -> None:
        alone = dataclasses.replace(grown, batch_size=batch_size, engine="eager", device=str(device))
        trainer = Trainer.from_config(alone, images, build=build, distributed=Distributed())
        for _ in range(2):  # the second step includes the optimizers' state
            trainer.step()

    fits = largest_batch_size(lambda size: fits_on_gpu(partial(try_out, size), device), 2 * config.accumulate)
    smallest = torch.tensor(fits or 0, device=device)
    distributed.all_reduce_min_(smallest)
    if not smallest:
        raise SettingsError(f"no batch fits on {device}, not even one of {2 * config.accumulate} images")
    return int(smallest) * distributed.world_size

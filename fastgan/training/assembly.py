"""From the settings of a run to its engine, on the data and the device that they name."""

import dataclasses
from functools import partial

import torch

from fastgan.data.sources import ImageSource, open_source
from fastgan.random_state import preserved_random_state
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.device import resolve_device
from fastgan.training.engine import Engine
from fastgan.training.growth import GrowthSchedule
from fastgan.training.loggers import import_wandb
from fastgan.training.memory import fits_on_gpu, largest_batch_size
from fastgan.training.ranks import Ranks


def make_engine(config: TrainingConfig, ranks: Ranks | None = None) -> Engine:
    """The engine of a run that begins, on the data and the device that the settings name.

    Args:
        config: the settings.
        ranks: the processes that share the run; by default this one is alone.
    """
    if config.wandb:
        import_wandb(config)
    device = resolve_device(config.device)
    return Engine(config, _open_source(config, device, ranks or Ranks()), device, ranks)


def _open_source(config: TrainingConfig, device: torch.device, ranks: Ranks) -> ImageSource:
    schedule = GrowthSchedule.of(config)
    return open_source(
        config.data,
        resolution=config.resolution,
        device=device,
        seed=config.seed,
        batch_size_of=lambda update: schedule.at(update // config.discriminator_steps).batch_size,
        with_labels=config.conditional,
        on_device=config.data_on_device,
        workers=config.workers,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )


@preserved_random_state()
def find_largest_batch(config: TrainingConfig, device: torch.device, ranks: Ranks) -> int:
    """The largest batch, of all ranks together, of which each has room for its part at the last resolution.

    Raises:
        SettingsError: on a CPU, or where no batch fits; one sentence.
    """
    if device.type != "cuda":
        raise SettingsError(
            f"the batch size 'auto' is the largest that fits on a GPU, and the run is on {device}; expected a number"
        )
    grown = dataclasses.replace(config, grow_from=0, batch_sizes="", lrs="", data_on_device="yes", batch_size=2)
    source = _open_source(grown, device, Ranks())

    def trial(size: int) -> None:
        engine = Engine(dataclasses.replace(grown, batch_size=size, engine="eager"), source, device)
        for _ in range(2):  # the second with the state of the optimizers
            engine.step()

    fits = largest_batch_size(lambda size: fits_on_gpu(partial(trial, size), device), 2 * config.accumulate)
    of_each = torch.tensor(fits or 0, device=device)
    ranks.least_(of_each)
    if not of_each:
        raise SettingsError(f"no batch fits on {device}, not even one of {2 * config.accumulate} images")
    return int(of_each) * ranks.world_size

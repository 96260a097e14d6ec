"""Builds networks, objective, images and mode from the settings; refuses settings that exclude each other."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models
from fastgan.data.augment import check_policy, diff_augment, parse_policy
from fastgan.data.dataset import BUNDLED
from fastgan.data.sources import ImageSource, open_source
from fastgan.losses import Loss, get_loss
from fastgan.models.own import Build, build_own, is_own
from fastgan.nn import MinibatchStdDev, spectral_norm_
from fastgan.nn.spectral_norm import SpectralNorm
from fastgan.regularizers import find_batch_norm, get_regularizer
from fastgan.training.config import SettingsError, TrainingConfig, is_scheduled
from fastgan.training.distributed import Distributed
from fastgan.training.progressive import GrowingSchedule
from fastgan.training.step import Augment, Penalty
from fastgan_kernels.reference import group_of

PENALIZED_PRESETS = "wgan-gp, conditional-dcgan, sngan, stylegan, photos, vanilla and gaussians"
"""Presets whose discriminator has no batch norm: batch norm rules out a gradient penalty."""


def build_networks(
    config: TrainingConfig, images: ImageSource, build: Build | None = None
) -> tuple[nn.Module, nn.Module, dict[str, Any] | None]:
    """Builds the networks that the settings or the user's function describe, from torch's global random state.

    Returns:
        Generator, discriminator and architecture: the arguments of :func:`fastgan.models.build_networks` as JSON types;
        None for networks of ``build``.

    Raises:
        SettingsError: for a model that does not exist or does not take these images or settings, or labels that a
            conditional run cannot learn from; one sentence.
    """
    num_channels, _, resolution = images.image_shape
    if build is not None:
        return *build_own(build, own_architecture(config, images)), None
    if is_own(config.model):
        raise SettingsError(
            f"setting 'model' is {config.model!r}, code of your own; give it with --model MODULE:FUNCTION"
        )
    # Only some models have these options, so they are passed only where they are set.
    options = {"minibatch": config.minibatch, "style_mixing": config.style_mixing}
    architecture = {
        "model": config.model,
        "resolution": resolution,
        "num_channels": num_channels,
        "latent_dim": config.latent_dim,
        "base_channels": config.base_channels or None,
        **{name: value for name, value in options.items() if value not in ("none", 0)},
    }
    if config.conditional:
        architecture["num_classes"] = _count_classes(images.labels, config.data)
    try:
        generator, discriminator = models.build_networks(**architecture)
        if config.spectral_norm and not any(isinstance(m, SpectralNorm) for m in discriminator.modules()):
            spectral_norm_(discriminator)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if config.grow_from not in (0, resolution) and not hasattr(generator, "grow"):
        raise SettingsError(f"grow_from is {config.grow_from}, and the networks of model {config.model!r} do not grow")
    return generator, discriminator, architecture


def own_architecture(config: TrainingConfig, images: ImageSource) -> dict[str, Any]:
    """Resolution, num_channels, latent_dim and num_classes for the user's networks, as JSON types."""
    num_channels, _, resolution = images.image_shape
    num_classes = _count_classes(images.labels, config.data) if config.conditional else None
    shape = {"resolution": resolution, "num_channels": num_channels, "latent_dim": config.latent_dim}
    return shape | {"num_classes": num_classes}


def build_objective(
    config: TrainingConfig, discriminator: nn.Module, image_shape: tuple[int, int, int]
) -> tuple[Loss, list[Penalty], Augment]:
    """Builds loss, penalties and augmentation from the settings, for a discriminator of images [C, H, W]."""
    num_channels, _, resolution = image_shape
    try:
        loss = get_loss(config.loss, real_label=config.real_label, fake_label=config.fake_label)
        penalties = [
            Penalty(get_regularizer(name), weight, interval)
            for name, weight, interval in config.penalties
            if name != "none"
        ]
        policy = parse_policy(config.diff_augment)
        check_policy(policy, (num_channels, *[config.grow_from or resolution] * 2))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    layer = find_batch_norm(discriminator)
    named = [name for name, *_ in config.penalties if isinstance(name, str)]
    if named and layer is not None:
        own = is_own(config.model)
        whose = "which" if own else f"of model {config.model!r}, which"
        others = "" if own else f"choose another model (the presets {PENALIZED_PRESETS} take it), or "
        raise SettingsError(
            f"regularizer {named[0]!r} cannot penalize the discriminator {whose} has batch normalization ({layer}) and "
            f"so couples the samples of a batch; {others}set regularizer 'none'"
        )
    return loss, penalties, partial(diff_augment, policy=policy) if policy else lambda images: images


def open_images(
    config: TrainingConfig, device: torch.device, distributed: Distributed, data: Any = None
) -> ImageSource:
    """The images of a run, for this rank: those of a path, Dataset, array, tensor or source of images, by default of
    the data that the settings name."""
    if hasattr(data, "next_batch"):
        return data
    schedule = GrowingSchedule(config)
    return open_source(
        config.data if data is None else data,
        resolution=config.resolution,
        device=device,
        seed=config.seed,
        batch_size_of=lambda update: schedule.at(update // config.discriminator_steps).batch_size,
        with_labels=config.conditional,
        on_device=config.data_on_device,
        workers=config.workers,
        fit=config.fit,
        skip_broken=config.skip_broken,
        rank=distributed.rank,
        world_size=distributed.world_size,
    )


def require_data(run: Path, data: str) -> None:
    """Refuses data that a run's settings name but that do not exist; the error names the file with the path and the
    place searched."""
    if data.startswith("<"):
        raise SettingsError(
            f"the data of run {str(run)!r} are {data}, which only the script that began it has; resume it by that "
            "script, and give --data to commands that compare with real images"
        )
    if data not in BUNDLED and not os.path.exists(data):
        here = "" if os.path.isabs(data) else f" in {os.getcwd()!r}, where this command runs"
        raise SettingsError(
            f"setting 'data' in {str(run / 'config.toml')!r} is {data!r}, and there is no such file or folder{here}; "
            "expected the path of the images there, absolute"
        )


def choose_mode(config: TrainingConfig, device: torch.device, world_size: int, can_record: bool) -> tuple[str, str]:
    """Chooses how steps run, ``eager``, ``graph`` or ``compiled``; returns the mode and the reason."""
    mode = config.engine
    # Each of torch's Adam implementations reads beta2 as a number, which a graph would freeze.
    unrecordable = is_scheduled(config.beta2)
    if mode == "auto":
        if unrecordable:
            return "eager", "a schedule of beta2 cannot be captured"
        if not can_record:
            return "eager", "CUDA graphs need a GPU"
        if world_size > 1:
            return "eager", "messages between ranks are not captured"
        return "graph", "CUDA graphs: one launch per step"
    if mode == "graph" and not can_record:
        raise SettingsError(f"engine is 'graph', which needs a CUDA device, and the run is on {device.type}")
    if mode == "graph" and unrecordable:
        raise SettingsError(
            "engine is 'graph' with a schedule of beta2, which a graph cannot follow; expected a number"
        )
    if mode != "eager" and world_size > 1:
        raise SettingsError(f"engine is {mode!r} on {world_size} ranks, where only 'eager' works")
    if mode == "compiled" and config.precision == "float16":
        raise SettingsError("engine is 'compiled' with precision 'float16'; expected float32 or bfloat16")
    return mode, "as set"


def _count_classes(labels: Tensor | None, data: str) -> int:
    """The number of classes in the labels of a data set. Gaps are refused: the networks would not learn a class without
    images, and one wrong label such as 10**9 would allocate as many embeddings."""
    if labels is None:
        raise SettingsError(f"conditional is true and the data {data!r} carries no labels; expected one for each image")
    found = labels.unique().tolist()
    if found != list(range(len(found))):
        raise SettingsError(
            f"conditional is true and the data {data!r} has {len(found)} different labels from {found[0]} to "
            f"{found[-1]}; expected class numbers from 0 without gaps"
        )
    return len(found)


def check_group_sizes(discriminator: nn.Module, batch_sizes: list[int], num_micro_batches: int) -> list[str]:
    """Checks the groups into which layers of minibatch standard deviation divide each micro-batch.

    In a group of one the deviation is always 0, so the discriminator cannot see a collapsed batch, the purpose of the
    layer: a SettingsError. A group smaller than set works, but is another statistic: one sentence is returned for each
    such batch size. ``batch_sizes`` are of all ranks together; ``num_micro_batches`` is the number of ranks times
    ``accumulate``.
    """
    notes = []
    for layer in [module for module in discriminator.modules() if isinstance(module, MinibatchStdDev)]:
        for size in sorted(set(batch_sizes)):
            part, wanted = size // num_micro_batches, layer.group_size
            found = group_of(part, wanted)
            if found == wanted:
                continue
            of_batch = f"a batch of {size}" + (
                f" in {num_micro_batches} micro-batches (ranks times accumulate)" if num_micro_batches > 1 else ""
            )
            cure = f"a multiple of {wanted * num_micro_batches} gives groups of {wanted}"
            if found == 1:
                raise SettingsError(
                    f"the minibatch standard deviation of {of_batch} would be of groups of one, and constant, as no "
                    f"number from 2 to {wanted} divides {part}; {cure}"
                )
            notes.append(f"the minibatch standard deviation of {of_batch} is of groups of {found}; {cure}")
    return notes

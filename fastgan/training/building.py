"""From the settings to networks, loss and regularizer, with everything refused that does not go together."""

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastgan.data.augment import check_policy, diff_augment, parse_policy
from fastgan.data.sources import ImageSource
from fastgan.losses import Loss, get_loss
from fastgan.models import build_networks
from fastgan.nn import MinibatchStdDev, spectral_norm_
from fastgan.nn.spectral_norm import SpectralNorm
from fastgan.regularizers import Regularizer, find_batch_norm, get_regularizer
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.objectives import Augment, no_augmentation
from fastgan_kernels.reference import group_of


class Built(NamedTuple):
    """What a run trains, and by what."""

    architecture: dict[str, Any]
    """What :func:`fastgan.models.build_networks` was called with, as JSON types."""
    generator: nn.Module
    discriminator: nn.Module
    loss: Loss
    regularizer: Regularizer | None
    augment: Augment


def build(config: TrainingConfig, source: ImageSource) -> Built:
    """Builds what the settings describe, for the images of a source, from torch's global random state.

    Raises:
        SettingsError: for a model, loss or regularizer that is not there, a resolution that the model does not have,
            settings that do not go together, or labels that a conditional run cannot learn from; one sentence.
    """
    num_channels, _, resolution = source.image_shape
    architecture = {
        "model": config.model,
        "resolution": resolution,
        "num_channels": num_channels,
        "latent_dim": config.latent_dim,
        "base_channels": config.base_channels or None,
        **_options(config),
    }
    if config.conditional:
        architecture["num_classes"] = _count_classes(source.labels, config.data)
    try:
        generator, discriminator = build_networks(**architecture)
        loss = get_loss(config.loss, real_label=config.real_label, fake_label=config.fake_label)
        regularizer = _regularizer(config, discriminator)
        policy = parse_policy(config.diff_augment)
        check_policy(policy, (num_channels, *[config.grow_from or resolution] * 2))
        if config.spectral_norm and not _has_spectral_norm(discriminator):
            spectral_norm_(discriminator)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if config.grow_from not in (0, resolution) and not hasattr(generator, "grow"):
        raise SettingsError(f"grow_from is {config.grow_from}, and the networks of model {config.model!r} do not grow")
    augment = partial(diff_augment, policy=policy) if policy else no_augmentation
    return Built(architecture, generator, discriminator, loss, regularizer, augment)


def _count_classes(labels: Tensor | None, data: str) -> int:
    """How many classes the labels of a data set tell apart.

    Raises:
        SettingsError: for data without labels, or with gaps between them: the networks would not learn a class that no
            image has, and one wrong label such as 10**9 would ask for as many embeddings.
    """
    if labels is None:
        raise SettingsError(f"conditional is true and the data {data!r} carries no labels; expected one for each image")
    found = labels.unique().tolist()
    if found != list(range(len(found))):
        raise SettingsError(
            f"conditional is true and the data {data!r} has {len(found)} different labels from {found[0]} to "
            f"{found[-1]}; expected class numbers from 0 without gaps"
        )
    return len(found)


def _regularizer(config: TrainingConfig, discriminator: nn.Module) -> Regularizer | None:
    regularizer = get_regularizer(config.regularizer)
    layer = find_batch_norm(discriminator)
    if regularizer is not None and layer is not None:
        raise SettingsError(
            f"regularizer {config.regularizer!r} cannot penalise the discriminator of model {config.model!r}, which "
            f"has batch normalisation ({layer}) and so couples the samples of a batch; choose another model, or "
            "regularizer 'none'"
        )
    return regularizer


def check_groups(discriminator: nn.Module, batch_sizes: list[int], num_parts: int) -> list[str]:
    """Looks at the groups that layers of minibatch standard deviation form of the part of a batch that they see.

    A group of one has no deviation: the channel is constant, and the discriminator cannot see a collapsed batch, which
    is what the layer is for. Smaller groups than set have one, of fewer samples: another statistic, which works.

    Args:
        discriminator: with such layers or without.
        batch_sizes: of all ranks together, at each resolution.
        num_parts: that a batch is divided into, by ranks and by ``accumulate``.

    Returns:
        A sentence for each size of which groups are smaller than set.

    Raises:
        SettingsError: where they are of one; one sentence.
    """
    notes = []
    for layer in [module for module in discriminator.modules() if isinstance(module, MinibatchStdDev)]:
        for size in sorted(set(batch_sizes)):
            part, wanted = size // num_parts, layer.group_size
            found = group_of(part, wanted)
            if found == wanted:
                continue
            of_batch = f"a batch of {size}" + (
                f" in {num_parts} parts (ranks times accumulate)" if num_parts > 1 else ""
            )
            cure = f"a multiple of {wanted * num_parts} gives groups of {wanted}"
            if found == 1:
                raise SettingsError(
                    f"the minibatch standard deviation of {of_batch} would be of groups of one, and constant, as no "
                    f"number from 2 to {wanted} divides {part}; {cure}"
                )
            notes.append(f"the minibatch standard deviation of {of_batch} is of groups of {found}; {cure}")
    return notes


def _options(config: TrainingConfig) -> dict[str, Any]:
    """Settings that only some models have; one that is left alone is not asked of them."""
    options = {"minibatch": config.minibatch, "style_mixing": config.style_mixing}
    return {name: value for name, value in options.items() if value not in ("none", 0)}


def _has_spectral_norm(network: nn.Module) -> bool:
    return any(isinstance(module, SpectralNorm) for module in network.modules())

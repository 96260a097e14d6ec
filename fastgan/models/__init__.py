"""Generators and discriminators, looked up by name.

A model is a function that builds a generator and a discriminator from the shapes of images and latents. Generators map
standard normal latents [N, latent_dim] to images [N, C, H, W] in [-1, 1] and have the attribute ``latent_dim``;
discriminators map such images to raw logits [N], without a sigmoid. The images of "stylegan" are not bounded to
[-1, 1], and its networks have a method ``grow``. Conditional networks also take labels, int64 [N], and the generator's
``num_classes`` is not None. A generator's ``architecture`` holds its arguments of :func:`build_networks`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from fastgan.errors import unknown
from fastgan.models.dcgan import build_dcgan
from fastgan.models.mlp import build_mlp
from fastgan.models.sngan import build_sngan
from fastgan.models.stylegan import build_stylegan
from fastgan.models.vanilla import build_vanilla
from fastgan.models.wgan_gp import build_wgan_gp


class Networks(NamedTuple):
    """A generator and its discriminator."""

    generator: nn.Module
    discriminator: nn.Module


MODELS: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
    "vanilla": build_vanilla,
    "dcgan": build_dcgan,
    "wgan-gp": build_wgan_gp,
    "sngan": build_sngan,
    "stylegan": build_stylegan,
    "mlp": build_mlp,
}


def build_networks(
    model: str,
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> Networks:
    """Builds and initializes the networks of a model, on the CPU, from torch's global random state.

    Args:
        model: a name in ``MODELS``.
        resolution: height and width of the images, in pixels.
        num_channels: channels of the images: 1 for gray, 3 for color.
        latent_dim: dimensions of a latent.
        base_channels: width from which the model's widths follow; None for the model's default.
        num_classes: number of classes of conditional networks; None for networks without labels.
        options: further arguments of the model's function, such as ``norm`` for wgan-gp.

    Raises:
        ValueError: for an unknown name or option, a size below 1, a resolution, width or value that the model does not
            support, or classes for a model without a conditional form; one sentence.
    """
    if model not in MODELS:
        raise ValueError(unknown("model", model, MODELS))
    sizes = {
        "resolution": resolution,
        "num_channels": num_channels,
        "latent_dim": latent_dim,
        "base_channels": base_channels,
        "num_classes": num_classes,
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}, expected at least 1")
    known = inspect.signature(MODELS[model]).parameters
    if "num_classes" not in known:
        if num_classes is not None:
            able = [name for name, build in MODELS.items() if "num_classes" in inspect.signature(build).parameters]
            raise ValueError(f"model {model} has no conditional form ({', '.join(able)} have)")
        del sizes["num_classes"]
    others = [name for name in known if name not in sizes]
    for name in options:
        if name not in others:
            raise ValueError(unknown("option", name, others, f" of model {model}"))
    networks = Networks(*MODELS[model](**sizes, **options))
    networks.generator.num_classes = num_classes
    # Saved with the generator, to rebuild it.
    networks.generator.architecture = {"model": model, **sizes, "num_classes": num_classes, **options}
    return networks

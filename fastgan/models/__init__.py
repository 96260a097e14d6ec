"""Generators and discriminators, looked up by name.

A model is a function from the shape of the images and of the latents to a pair of networks. Generators map standard
normal latents [N, latent_dim] to images [N, C, H, W] in [-1, 1] and carry ``latent_dim`` as an attribute;
discriminators map such images to raw logits [N], with no sigmoid. The images of "stylegan" aim at [-1, 1] without being
bounded, and its networks have ``grow``. The networks of a conditional pair are called with labels, int64 [N], beside
these, and its generator's ``num_classes`` is not None. A generator's ``architecture`` holds the arguments of
:func:`build_networks` that it was built with.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from fastgan.models.dcgan import build_dcgan
from fastgan.models.mlp import build_mlp
from fastgan.models.sngan import build_sngan
from fastgan.models.stylegan import build_stylegan
from fastgan.models.vanilla import build_vanilla
from fastgan.models.wgan_gp import build_wgan_gp


class Networks(NamedTuple):
    """A generator and the discriminator that it plays against."""

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
    """Builds the freshly initialised networks of a model, on the CPU, from torch's global random state.

    Args:
        model: a name in ``MODELS``.
        resolution: height and width of the images, in pixels.
        num_channels: channels of the images: 1 for grey, 3 for colour.
        latent_dim: length of a latent.
        base_channels: the width that the model's other widths follow from; ``None`` for the model's own default.
        num_classes: how many classes the networks are to know; ``None`` for networks that take no labels.
        options: what the model's own function takes beyond these, such as ``norm`` for wgan-gp.

    Raises:
        ValueError: for an unknown name or option, a size below 1, a resolution, width or option's value that the model
            does not have, or classes where it has no conditional form; one sentence.
    """
    if model not in MODELS:
        nearest = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no model is called {model!r} (there is {', '.join(MODELS)}){hint}")
    sizes = {
        "resolution": resolution,
        "num_channels": num_channels,
        "latent_dim": latent_dim,
        "base_channels": base_channels,
        "num_classes": num_classes,
    }
    for name in ("num_channels", "latent_dim", "base_channels", "num_classes"):
        size = sizes[name]
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
            hint = f" (there is {', '.join(others)})" if others else ""
            raise ValueError(f"model {model} has no option {name!r}{hint}")
    networks = Networks(*MODELS[model](**sizes, **options))
    networks.generator.num_classes = num_classes
    # What builds it again; whoever keeps a generator keeps this with it.
    networks.generator.architecture = {"model": model, **sizes, "num_classes": num_classes, **options}
    return networks


__all__ = ["MODELS", "Networks", "build_networks"]

"""The user's own networks, built by a function that is named as ``package.module:function``."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from fastgan.errors import InputError, first_line
from fastgan.extras import import_function
from fastgan.models import Networks, build_networks

OWN = "own"
"""Stands for the name of a model in checkpoints and exports."""

Build = Callable[..., tuple[nn.Module, nn.Module]]
Model = Build | str | nn.Module
"""What builds the user's networks again: a function, its name ``package.module:function``, or the generator."""


def is_own(model: str) -> bool:
    """Whether the setting ``model`` of a run stands for the user's own networks."""
    return model == OWN or ":" in model


def build_own(build: Build, shape: dict[str, Any]) -> Networks:
    """Calls the user's function with those items of ``shape`` that it names: resolution, num_channels, latent_dim and
    num_classes (None if unconditional).

    Raises:
        InputError: if it requires other arguments, fails or does not return two modules; one sentence.
    """
    name = f"{build.__module__}:{getattr(build, '__qualname__', type(build).__name__)}"
    parameters = inspect.signature(build).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {key: value for key, value in shape.items() if takes_all or key in parameters}
    try:
        inspect.signature(build).bind(**given)
        networks = build(**given)
    except Exception as error:
        raise InputError(
            f"model {name} fails with {', '.join(f'{key}={value}' for key, value in given.items())}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(networks, tuple | list) or [isinstance(n, nn.Module) for n in networks] != [True, True]:
        raise InputError(f"model {name} returns {type(networks).__name__}, expected a generator and a discriminator")
    return Networks(*networks)


def require_build(folder: Path, model: str, build: Any) -> None:
    """Refuses a run or export of the user's own networks without their function, which is never imported by itself;
    also refuses a function for fastgan's networks. ``model`` is that of the settings or checkpoint."""
    if is_own(model) and build is None:
        whose = "" if model == OWN else f", {model!r}"
        raise InputError(
            f"{str(folder)!r} has networks of your own{whose}; give the function that builds them again with --model "
            "package.module:function, in Python with model="
        )
    if not is_own(model) and build is not None:
        raise InputError(f"{str(folder)!r} has the networks of model {model!r}; expected no other model with it")


def build_generator(architecture: dict[str, Any], model: Model | None, class_names: Any) -> nn.Module:
    """Builds the generator of a checkpoint or an export, with the attributes that :func:`describe` sets.

    ``architecture`` holds the arguments of :func:`fastgan.models.build_networks`; for the user's networks, those of
    :func:`build_own`, and ``model``. ``class_names`` is a list of JSON or None.
    """
    if model is None:
        generator = build_networks(**architecture).generator
    elif isinstance(model, nn.Module):
        generator = model
    else:
        shape = {name: value for name, value in architecture.items() if name != "model"}
        generator = build_own(import_function("model", model) if isinstance(model, str) else model, shape).generator
    describe(generator, architecture, class_names)
    return generator


def describe(generator: nn.Module, architecture: dict[str, Any], class_names: Any) -> None:
    """Sets the attributes that sampling and exporting read from a generator."""
    num_classes = architecture.get("num_classes")
    if not hasattr(generator, "architecture"):  # the user's network may have one of its own, which it needs
        generator.architecture = architecture
    generator.latent_dim, generator.num_classes = architecture["latent_dim"], num_classes
    named = isinstance(class_names, list | tuple) and num_classes is not None and len(class_names) >= num_classes
    generator.class_names = list(map(str, class_names)) if named else None

"""The user's own networks, built by a function that is named as ``package.module:function``."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from fastgan.errors import InputError, first_line
from fastgan.extras import import_from_here
from fastgan.models import Networks

OWN = "own"
"""Stands for the name of a model in checkpoints."""

Build = Callable[..., tuple[nn.Module, nn.Module]]


def is_own(model: str) -> bool:
    """Whether the setting ``model`` of a run stands for the user's own networks."""
    return model == OWN or ":" in model


def import_build(name: str) -> Build:
    """Imports a function; its module may be in the current folder.

    Args:
        name: ``package.module:function``.

    Raises:
        InputError: if it cannot be imported; one sentence.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(f"model {name!r} names no function; expected package.module:function")
    try:
        imported = import_from_here(module)
    except Exception as error:
        raise InputError(
            f"model {name!r}: module {module!r} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from error
    build = getattr(imported, function, None)
    if not callable(build):
        raise InputError(f"model {name!r}: module {module!r} has no function {function!r}")
    return build


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


def require_build(run: Path, model: str, build: Any) -> None:
    """Refuses a run of the user's own networks without their function, which is never imported by itself; also refuses
    a function for a run of fastgan's networks.

    Args:
        run: the run's folder.
        model: the model in the run's settings or checkpoint.
        build: the user's function, generator or name, or None.

    Raises:
        InputError: one sentence.
    """
    if is_own(model) and build is None:
        whose = "" if model == OWN else f", {model!r}"
        raise InputError(
            f"run {str(run)!r} has networks of your own{whose}; give the function that builds them again with --model "
            "package.module:function, in Python with model="
        )
    if not is_own(model) and build is not None:
        raise InputError(f"run {str(run)!r} has the networks of model {model!r}; expected no other model with it")

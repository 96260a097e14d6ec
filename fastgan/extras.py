"""Imports optional packages, the extras, and functions of the user."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from fastgan.errors import InputError, first_line


class MissingExtraError(ImportError):
    """A package that is not installed. The message is one sentence, with the command that installs it."""


def install_command(extra: str) -> str:
    """The command that installs an extra in a checkout's folder: no package index has fastgan yet."""
    return f"pip install -e '.[{extra}]'"


def import_function(what: str, name: str, kind: type[InputError] = InputError) -> Callable[..., Any]:
    """Imports a user's function ``package.module:function``, from the current folder first, as ``python -m`` but not a
    console script does. The error, one sentence of the given kind, says that ``what``, such as a model, has this name.
    """
    module, _, function = name.partition(":")
    if not (module and function):
        raise kind(f"{what} {name!r} names no function; expected package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        imported = import_module(module)
    except Exception as error:
        raise kind(
            f"{what} {name!r}: module {module!r} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from error
    found = getattr(imported, function, None)
    if not callable(found):
        raise kind(f"{what} {name!r}: module {module!r} has no function {function!r}")
    return found


def require_extra(extra: str, what: str, *modules: str) -> ModuleType:
    """Imports ``modules`` of an ``extra`` in pyproject.toml and returns the first; the error says that ``what`` needs
    them.

    Raises:
        MissingExtraError: if a module is not installed; one sentence.
    """
    try:
        found = [import_module(name) for name in modules]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} needs {error.name.partition('.')[0]}, which is not installed: {install_command(extra)}"
        ) from None
    return found[0]


def require_onnx() -> ModuleType:
    """Imports onnxruntime; MissingExtraError unless all packages for ONNX export are installed."""
    return require_extra("onnx", "ONNX", "onnxruntime", "onnx", "onnxscript")


def require_gradio() -> ModuleType:
    """Imports gradio with analytics switched off; MissingExtraError if it is not installed."""
    # gradio reads this when it is imported.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    return require_extra("explore", "the explorer", "gradio")

"""Modules from outside: the optional packages of the distribution, its extras, and modules of the user."""

import os
import sys
from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package that is not installed. The message is one sentence, with the command that installs it."""


def install_command(extra: str) -> str:
    """The command that installs an extra, in the folder of the checkout: no package index has fastgan yet."""
    return f"pip install -e '.[{extra}]'"


def import_from_here(module: str) -> ModuleType:
    """Imports a user's module, from the current folder first, as under ``python -m``; a console script lacks it."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return import_module(module)


def require_extra(extra: str, what: str, *modules: str) -> ModuleType:
    """Imports ``modules`` of an ``extra`` in pyproject.toml and returns the first; ``what`` needs them, for the error.

    Raises:
        MissingExtraError: a module is not installed; one sentence.
    """
    try:
        found = [import_module(name) for name in modules]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} needs {error.name.partition('.')[0]}, which is not installed: {install_command(extra)}"
        ) from None
    return found[0]


def require_onnx() -> ModuleType:
    """onnxruntime, if all packages of an export to ONNX are installed; else MissingExtraError."""
    return require_extra("onnx", "ONNX", "onnxruntime", "onnx", "onnxscript")


def require_gradio() -> ModuleType:
    """gradio with analytics switched off; MissingExtraError where it is not installed."""
    # Read when gradio is imported.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    return require_extra("explore", "the explorer", "gradio")

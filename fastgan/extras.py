"""Imports optional packages, the extras, and modules of the user."""

import os
import sys
from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package that is not installed. The message is one sentence, with the command that installs it."""


def install_command(extra: str) -> str:
    """The command that installs an extra in a checkout's folder: no package index has fastgan yet."""
    return f"pip install -e '.[{extra}]'"


def import_from_here(module: str) -> ModuleType:
    """Imports a user's module, from the current folder first, as ``python -m`` but not a console script does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return import_module(module)


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

"""Packages that only some of the toolkit needs: the extras of the distribution."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package that is not installed. The message is one sentence, with the command that installs it."""


def require_extra(extra: str, what: str, *modules: str) -> ModuleType:
    """Imports the modules of an extra.

    Args:
        extra: its name in pyproject.toml.
        what: what needs it, for the message.
        modules: their full names.

    Returns:
        The first of them.

    Raises:
        MissingExtraError: where one of them is not installed; one sentence.
    """
    try:
        found = [import_module(name) for name in modules]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} needs {error.name.partition('.')[0]}, which is not installed: pip install 'fastgan[{extra}]'"
        ) from None
    return found[0]

"""Optional packages: the extras of the distribution."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package that is not installed. The message is one sentence, with the command that installs it."""


def require_extra(extra: str, what: str, *modules: str) -> ModuleType:
    """Imports ``modules`` of an ``extra`` in pyproject.toml and returns the first; ``what`` needs them, for the error.

    Raises:
        MissingExtraError: a module is not installed; one sentence.
    """
    try:
        found = [import_module(name) for name in modules]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} needs {error.name.partition('.')[0]}, which is not installed: pip install 'fastgan[{extra}]'"
        ) from None
    return found[0]

"""The base class of errors of bad input, and helpers for their messages.

This module imports only the standard library, so that ``fastgan --help`` does not wait for torch.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence, which the command line prints."""


MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
"""Exceptions raised by readable files that do not fit the model."""


def first_line(error: Exception | str) -> str:
    """The first line of another library's message, and the second behind a colon, at most 200 printable characters,
    since it may quote a hostile file; the error's type if the message is empty."""
    first, _, others = str(error).strip().partition("\n")
    if first.endswith(":"):
        first = f"{first} {others.strip().partition(chr(10))[0]}"
    text = first[:200] or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def writing(what: str, kind: type[InputError] = InputError) -> Iterator[None]:
    """Raises an OSError of its body as an error of ``kind``, one sentence."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what} cannot be written: {error.strerror or error}") from None


def unknown(kind: str, name: str, names: Iterable[str], where: str = "") -> str:
    """The message for a name that is not in ``names``: it offers the nearest one, or else all."""
    names = list(names)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; choose from {', '.join(names)}" if names else ""
    return f"unknown {kind} {name!r}{where}{hint}"

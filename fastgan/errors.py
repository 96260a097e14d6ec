"""The base of all errors of bad input, and the parts of their sentences.

This module imports only the standard library, as ``fastgan --help`` must not wait for torch.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence, which the command line prints."""


def first_line(error: Exception | str) -> str:
    """The first line of a foreign message for a sentence of ours: at most 200 printable characters, as it may quote a
    hostile file; the error's type where the message is empty."""
    text = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text)


def unknown(kind: str, name: str, names: Iterable[str], where: str = "") -> str:
    """The sentence about a name that is none of ``names``: it offers the nearest one, or else all."""
    names = list(names)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; choose from {', '.join(names)}" if names else ""
    return f"unknown {kind} {name!r}{where}{hint}"

"""DataError, and the parts of its messages."""

import os

from fastgan.errors import InputError

# A zip entry's name may have 65,535 characters, and a decoder's message any number: sentences stay readable.
_LONGEST_QUOTE = 200


class DataError(InputError):
    """Image data that cannot be used. The message is one sentence: what was found where, and what is expected."""


def quoted(name: str | os.PathLike[str]) -> str:
    """``name`` in quotes on one line: control characters and undecodable bytes escaped, a long middle left out."""
    text = repr(os.fspath(name))
    half = _LONGEST_QUOTE // 2
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:half]}...{text[-half:]}"


def reason(error: BaseException) -> str:
    """The message of another library's exception, as the end of a sentence: one line, no full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."

"""DataError, and the parts of its messages."""

import os
import re
from collections.abc import Sequence

from fastgan.errors import InputError

# A zip entry's name may have 65,535 characters, and a decoder's message any number: sentences stay readable.
_LONGEST_QUOTE = 200
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


class DataError(InputError):
    """Image data that cannot be used. The message is one sentence: what was found where, and what is expected."""


def quoted(name: str | os.PathLike[str]) -> str:
    """``name`` in quotes on one line: control characters and undecodable bytes escaped, a long middle left out."""
    text = repr(os.fspath(name))
    half = _LONGEST_QUOTE // 2
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:half]}...{text[-half:]}"


def skipped(broken: Sequence[DataError], count: int, *, whole: bool) -> str:
    """A sentence about the broken ones of ``count`` images: a note where the ``whole`` ones are enough, else an error.

    Raises:
        DataError: not ``whole``, or none is whole.
    """
    first, share = str(broken[0]).rstrip("."), f"{len(broken):,} of {count:,} images cannot be read"
    if not whole:
        cure = "remove them" if len(broken) > 1 else "remove it"
        raise DataError(f"{first}; {share}: {cure}, or continue without with skip_broken = true.")
    if len(broken) == count:
        raise DataError(f"{first}; none of {count:,} images can be read.")
    return f"{share} and are left out, the first because {first}."


def reason(error: BaseException) -> str:
    """The message of another library's exception, as the end of a sentence: one line, no full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _ADDRESS.sub("", " ".join(str(error).split())).rstrip(" .:") or type(error).__name__
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."

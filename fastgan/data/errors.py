"""DataError, and helpers for its messages."""

import os
import re
from collections.abc import Sequence

from fastgan.errors import InputError, first_line

# Quotes are shortened: a zip entry's name may have 65,535 characters.
_LONGEST_QUOTE = 200
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


class DataError(InputError):
    """Image data that cannot be used. The message is one sentence: what was found, where, and what is expected."""


def quoted(name: str | os.PathLike[str]) -> str:
    """Quotes a name on one line: escapes control characters and undecodable bytes, and shortens a long name."""
    text = repr(os.fspath(name))
    half = _LONGEST_QUOTE // 2
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:half]}...{text[-half:]}"


def skipped(broken: Sequence[DataError], count: int, skip_broken: bool) -> str:
    """A note on the broken ones of ``count`` images; raises DataError without ``skip_broken``, or if all are broken."""
    first, share = str(broken[0]).rstrip("."), f"{len(broken):,} of {count:,} images cannot be read"
    if not skip_broken:
        them = "them" if len(broken) > 1 else "it"
        raise DataError(f"{first}; {share}: remove {them}, or set skip_broken = true to leave {them} out.")
    if len(broken) == count:
        raise DataError(f"{first}; none of {count:,} images can be read.")
    return f"{share} and are left out, the first because {first}."


def reason(error: BaseException) -> str:
    """The message of another library's exception, as the end of a sentence: one line, without a period."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _ADDRESS.sub("", first_line(error)).rstrip(" .:")

"""Reads untrusted zip files, without extracting them to disk."""

import os
import re
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.limits import MAX_FILE_BYTES, require_compression

_DRIVE_LETTER = re.compile(r"[A-Za-z]:")
# The methods that zip tools write by default. Python's readers of the others do not bound the output of one read.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class SafeZip:
    """The checked files of a zip: ``entries`` maps each name to its zipfile.ZipInfo, sorted by name.

    Processes forked after opening may read it at the same time.

    Raises:
        DataError: for a file that is not a zip, or is corrupt; an entry that points outside the archive (absolute,
            "..", drive letter, symbolic link), is encrypted, occurs twice, has an invalid name or an unusual
            compression method; or a higher compression than that of real images.
    """

    def __init__(self, path: Path):
        self._path, self._process = path, os.getpid()
        try:
            self._zip = zipfile.ZipFile(path)
        # On damaged input zipfile raises BadZipFile, struct.error, UnicodeDecodeError, NotImplementedError and more.
        except Exception as error:
            raise DataError(f"{quoted(path)} is broken ({reason(error)}); expected a whole zip file.") from error
        self.entries = self._checked_entries()
        self.names = list(self.entries)

    def where(self, name: str) -> str:
        """The name of an entry in error messages."""
        return f"{quoted(name)} in {quoted(self._path)}"

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Reads an entry of at most ``max_bytes``, by default ``MAX_FILE_BYTES``; zipfile checks its CRC."""
        entry = self._entry(name, MAX_FILE_BYTES if max_bytes is None else max_bytes)
        try:
            data = self._zip.read(entry)
        except Exception as error:  # The types named in __init__, and zlib.error and EOFError.
            raise DataError(f"{self.where(name)} is corrupt ({reason(error)}); expected a whole zip.") from error
        if len(data) != entry.file_size:
            raise DataError(f"{self.where(name)} is corrupt: it has {len(data):,} bytes; expected {entry.file_size:,}.")
        return data

    def open(self, name: str) -> BinaryIO:
        """Opens an entry of at most ``MAX_FILE_BYTES``, to be read in pieces; reading raises zipfile's own errors."""
        entry = self._entry(name, MAX_FILE_BYTES)
        try:
            return self._zip.open(entry)  # type: ignore[return-value]
        except Exception as error:
            raise DataError(f"{self.where(name)} is corrupt ({reason(error)}); expected a whole zip.") from error

    def _entry(self, name: str, max_bytes: int) -> zipfile.ZipInfo:
        if self._process != os.getpid():
            # Forked processes share the position of an open file.
            self._zip.fp, self._process = self._path.open("rb"), os.getpid()
        entry = self.entries[name]
        if entry.file_size > max_bytes:
            raise DataError(
                f"{self.where(name)} has {entry.file_size:,} bytes when unpacked; expected at most {max_bytes:,}."
            )
        return entry

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in sorted(self._zip.infolist(), key=lambda entry: entry.filename):
            where = self.where(entry.orig_filename)
            # zipfile cuts a name at its first zero byte, so two names may become equal, or a name empty.
            if not entry.orig_filename or "\0" in entry.orig_filename:
                raise DataError(f"{where} is not a valid file name; expected one without zero bytes.")
            if _escapes(entry.orig_filename):
                raise DataError(f"{where} points outside the archive; expected relative paths without '..'.")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise DataError(f"{where} is a symbolic link; expected plain files.")
            if entry.is_dir():
                continue
            if entry.flag_bits & 0x1:
                raise DataError(f"{where} is encrypted; expected a zip without a password.")
            if entry.compress_type not in _METHODS:
                raise DataError(f"{where} uses compression method {entry.compress_type}; expected stored or deflated.")
            if entry.filename in entries:
                raise DataError(f"{where} occurs twice; expected each name once.")
            entries[entry.filename] = entry
        # The total, because entries may share compressed bytes.
        require_compression(self._path, sum(entry.file_size for entry in entries.values()))
        return entries


def _escapes(name: str) -> bool:
    path = name.replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/") or _DRIVE_LETTER.match(path) is not None

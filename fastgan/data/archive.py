"""Reads untrusted zip files, without extracting them to disk."""

import io
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.limits import MAX_ARCHIVE_BYTES, MAX_COMPRESSION_RATIO, MAX_FILE_BYTES, explodes

_DRIVE_LETTER = re.compile(r"[A-Za-z]:")
# The methods that zip tools write by default. Python's readers of the others do not bound the output of one read.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class SafeZip:
    """The checked files of a zip: ``entries`` maps each name to its zipfile.ZipInfo, sorted by name.

    Processes forked after opening may read it at the same time.

    Raises:
        DataError: for a file that is not a zip, or is corrupt; an entry that points outside the archive (absolute,
            "..", drive letter, symbolic link), is encrypted, occurs twice, has an invalid name or an unusual
            compression method; or sizes above ``MAX_ARCHIVE_BYTES`` or ``MAX_COMPRESSION_RATIO``.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: io.BufferedReader | None = None
        try:
            self._file = io.BufferedReader(_OwnPosition(io.FileIO(path)))
            self._zip = zipfile.ZipFile(self._file)
        # On damaged input zipfile raises BadZipFile, struct.error, UnicodeDecodeError, NotImplementedError and more.
        except Exception as error:
            self.close()
            raise DataError(f"{quoted(path)} is broken ({reason(error)}); expected a whole zip file.") from error
        try:
            self.entries = self._checked_entries()
        except DataError:
            self.close()
            raise

    def __enter__(self) -> "SafeZip":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    @property
    def holds_arrays(self) -> bool:
        """Whether the zip is a .npz of numpy."""
        return any(name.endswith(".npy") for name in self.entries)

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
                raise DataError(f"{where} is no name for a file; expected one without zero bytes.")
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
                raise DataError(f"{where} is there twice; expected each name once.")
            entries[entry.filename] = entry
        self._check_total(sum(entry.file_size for entry in entries.values()))
        return entries

    def _check_total(self, total: int) -> None:
        # The total is compared with the file on disk, because entries may share compressed bytes.
        size = self._path.stat().st_size
        if total > MAX_ARCHIVE_BYTES:
            raise DataError(
                f"{quoted(self._path)} would unpack to {total:,} bytes; expected at most {MAX_ARCHIVE_BYTES:,}."
            )
        if explodes(size, total):
            raise DataError(
                f"{quoted(self._path)} would explode from {size:,} to {total:,} bytes; expected a compression of at "
                f"most {MAX_COMPRESSION_RATIO}:1, which real images do not reach."
            )


class _OwnPosition(io.RawIOBase):
    """A file with its own position. Forked processes share the position of an open file."""

    def __init__(self, file: io.FileIO):
        self._file = file
        self._position = 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._file.fileno()).st_size}
        position = start[whence] + offset
        if position < 0:
            raise OSError("a position before the start of the file")
        self._position = position
        return position

    def readinto(self, buffer: memoryview) -> int:
        count = os.preadv(self._file.fileno(), [buffer], self._position)
        self._position += count
        return count


def _escapes(name: str) -> bool:
    path = name.replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/") or _DRIVE_LETTER.match(path) is not None

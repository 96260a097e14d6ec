"""Encoded image files in a folder or a zip, with labels in an optional dataset.json."""

import json
import logging
import mmap
import os
import reprlib
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from unicodedata import normalize

import numpy as np
from PIL import Image

from fastgan.data.archive import SafeZip
from fastgan.data.decode import SUFFIXES, decode_image, read_header
from fastgan.data.errors import DataError, quoted, reason, skipped
from fastgan.data.kinds import START_BYTES, UNREAD_SUFFIXES, refusal
from fastgan.data.limits import MAX_FILE_BYTES

LABELS_FILE = "dataset.json"

# Folders that systems create for previews, copies and deleted files, in lower case: those of file servers (Synology,
# QNAP, netatalk), macOS, Windows and ext4.
_NOT_DATA = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "network trash folder", "temporary items"),
    *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
}

_logger = logging.getLogger(__name__)
# For each folder or zip, whether the warning about its metadata is logged. Forked processes share the byte.
_warned: dict[str, mmap.mmap] = {}


class Folder:
    """The files below a folder, with the interface of :class:`fastgan.data.archive.SafeZip`.

    ``names`` are relative paths with slashes. Links to folders are followed.
    """

    def __init__(self, path: Path):
        self._path = path
        self.names = _walk(path, "", ())

    def where(self, name: str) -> str:
        return quoted(self._path / name)

    def read(self, name: str) -> bytes:
        try:
            with self.open(name) as file:
                return file.read()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def open(self, name: str) -> BinaryIO:
        path = self._path / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # Opening a pipe would wait forever.
                raise DataError(f"{quoted(path)} is not a regular file; expected one that can be read to its end.")
            if status.st_size > MAX_FILE_BYTES:
                raise DataError(f"{quoted(path)} has {status.st_size:,} bytes; expected at most {MAX_FILE_BYTES:,}.")
            return path.open("rb")
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> DataError:
        return DataError(f"{self.where(name)} cannot be read ({reason(error)}); expected a readable file.")


class ImageFiles:
    """The images in a folder or zip, whose path is ``path``. Their names, labels and headers are read at once.

    Hidden files and folders, folders that systems create (``@eaDir``, ``lost+found`` ...) and files without an image
    suffix are ignored; with ``skip_broken`` also images whose header cannot be read.

    Attributes:
        names: names of the images, sorted; at least one.
        labels: class indices from 0, int64 [N], or None.
        class_names: names of the classes, if each is a folder; else None.
        channels: 3 if any image is in color, else 1.
        sizes: width and height of each image.
        notes: sentences for the user.
    """

    def __init__(self, container: Folder | SafeZip, path: Path, *, skip_broken: bool = False) -> None:
        self._container, self._source = container, quoted(path)
        visible = sorted(name for name in container.names if all(map(_is_data, name.split("/"))))
        self.names = [name for name in visible if name.lower().endswith(SUFFIXES)]
        if not self.names:
            raise DataError(
                f"{self._source} holds no images{self._what_it_holds(visible)}; expected at least one file ending in "
                f"{', '.join(SUFFIXES)}."
            )
        # Labels are read first: they are quick to read, so that an error in them is not found only after all headers.
        self.labels, self.class_names = self._read_labels(visible)
        _warned.setdefault(self._source, mmap.mmap(-1, 1))
        found: list[tuple[int, tuple[int, int]] | None] = []
        broken: list[DataError] = []
        for name in self.names:
            try:
                with container.open(name) as file:
                    found.append(read_header(file, container.where(name), partial(self._warn_of_metadata, name)))
            except DataError as error:
                broken.append(error)
                found.append(None)
        self.notes = [skipped(broken, len(self.names), skip_broken)] if broken else []
        if unread := [name for name in visible if name.lower().endswith(UNREAD_SUFFIXES)]:
            self.notes.append(
                f"{len(unread):,} images in formats that are not read are left out, such as "
                f"{container.where(unread[0])}; convert them to JPEG or PNG"
            )
        kept = [index for index, header in enumerate(found) if header is not None]
        self.names = [self.names[index] for index in kept]
        self.labels = None if self.labels is None else self.labels[kept]
        channels, self.sizes = zip(*filter(None, found), strict=True)
        self.channels = max(channels)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, index: int) -> str:
        return self._container.where(self.names[index])

    def read(self, index: int, resolution: int) -> tuple[Image.Image, int | None]:
        """Reads an image that will be reduced to ``resolution``, of mode L or RGB, and its label.

        Raises:
            DataError: for a broken image, or one that was grayscale before and is now in color.
        """
        name, where = self.names[index], self.where(index)
        data = self._container.read(name)
        image = decode_image(data, where, partial(self._warn_of_metadata, name), resolution=resolution)
        if image.mode == "RGB" and self.channels == 1:
            raise DataError(f"{where} is in color now; expected the grayscale image that it was at the start.")
        return image, None if self.labels is None else int(self.labels[index])

    def _what_it_holds(self, names: list[str]) -> str:
        for name in names:
            with self._container.open(name) as file:
                if (sentence := refusal(self._container.where(name), file.read(START_BYTES))) is not None:
                    return f", and {sentence}"
        return ""

    def _warn_of_metadata(self, name: str) -> None:
        warned = _warned[self._source]
        if not warned[0]:
            warned[0] = 1
            _logger.warning(
                "%s has metadata (EXIF, color profile, text ...) that cannot be read; it is ignored, there and in "
                "other images of %s",
                self._container.where(name),
                self._source,
            )

    def _read_labels(self, visible: list[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        """Labels, int64 [N], and names of the classes; None for either that is absent.

        Labels of missing images are ignored, so a subset of a labeled set is still labeled. Without a dataset.json, the
        top-level folders are the classes, as in torchvision's ImageFolder, if there are several and all images are in
        them.
        """
        misplaced = [name for name in visible if PurePosixPath(name).name == LABELS_FILE and name != LABELS_FILE]
        if misplaced:
            raise DataError(
                f"{self._container.where(misplaced[0])} is below the top, where its labels do not apply; expected "
                f"{LABELS_FILE} at the top."
            )
        if LABELS_FILE not in visible:
            tops = [name.partition("/")[0] for name in self.names]
            classes = sorted(set(tops))
            if len(classes) < 2 or any("/" not in name for name in self.names):
                return None, None
            return np.searchsorted(classes, tops), tuple(classes)
        where = self._container.where(LABELS_FILE)
        label_of = _parse_labels(self._container.read(LABELS_FILE), where)
        if label_of is None:
            return None, None
        # Systems encode an accented letter as one character or as two.
        composed = {normalize("NFC", name): label for name, label in label_of.items()}
        found = [label_of.get(name, composed.get(normalize("NFC", name))) for name in self.names]
        missing = [name for name, label in zip(self.names, found, strict=True) if label is None]
        if missing:
            raise DataError(
                f"{where} has no label for {len(missing):,} of {len(self.names):,} images, first of them "
                f"{quoted(missing[0])}; expected one for each."
            )
        return np.array(found, np.int64), None


def _walk(root: Path, folder: str, above: Sequence[tuple[int, int]]) -> list[str]:
    """Relative POSIX paths of all files below; ``above`` identifies the parent folders, to detect loops of links."""
    here = root / folder
    try:
        status = here.stat()
        with os.scandir(here) as scan:
            children = [(child.name, child.is_dir()) for child in scan if _is_data(child.name)]
    except OSError as error:
        raise DataError(f"{quoted(here)} cannot be read ({reason(error)}); expected a readable folder.") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise DataError(f"{quoted(here)} links back to a folder that contains it; expected a tree of folders.")
    names = []
    for name, is_folder in children:
        relative = f"{folder}/{name}" if folder else name
        names += _walk(root, relative, (*above, identity)) if is_folder else [relative]
    return names


def _is_data(name: str) -> bool:
    """Whether a file or folder with this name is the user's own."""
    return not name.startswith(".") and name.lower() not in _NOT_DATA


def _parse_labels(data: bytes, where: str) -> dict[str, int] | None:
    expected = 'expected {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}'
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({reason(error)}); {expected}.") from error
    pairs = content.get("labels", ()) if isinstance(content, dict) else ()
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise DataError(f"{where} holds no list of labels; {expected}.")
    label_of: dict[str, int] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise DataError(f"{where} holds {reprlib.repr(pair)} among its labels; {expected}.")
        name, label = pair[0].replace("\\", "/"), pair[1]
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**63:
            raise DataError(
                f"{where} labels {quoted(name)} with {reprlib.repr(label)}; expected an integer from 0 (one-hot and "
                "attribute vectors are not supported)."
            )
        if name in label_of:
            raise DataError(f"{where} labels {quoted(name)} twice; expected one label for each image.")
        label_of[name] = label
    return label_of

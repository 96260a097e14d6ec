"""Encoded image files in a folder or a zip, with labels in an optional dataset.json."""

import json
import logging
import mmap
import os
import reprlib
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from unicodedata import normalize

import numpy as np

from fastgan.data.archive import SafeZip
from fastgan.data.decode import SUFFIXES, decode_image
from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.limits import MAX_FILE_BYTES, require_memory
from fastgan.data.pixels import resize_image

LABELS_FILE = "dataset.json"

# Folders that systems put beside people's files, in lower case: previews, copies and what was deleted. Those of file
# servers (Synology, QNAP, netatalk), macOS, Windows and ext4.
_NOT_DATA = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "network trash folder", "temporary items"),
    *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
}

_logger = logging.getLogger(__name__)
# By source, whether it has been noted that metadata of it cannot be read: a byte that processes forked later share.
_noted: dict[str, mmap.mmap] = {}


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images by name, and their labels.

    Attributes:
        source: the folder or zip, as an error's sentence names it.
        names: of the images, sorted; at least one.
        labels: class numbers from 0, int64 [N], or None.
        read: the bytes of the file of that name; raises DataError.
        open: the file, to be read in pieces; raises DataError.
        where: how an error's sentence names a file.
    """

    source: str
    names: list[str]
    labels: np.ndarray | None
    read: Callable[[str], bytes]
    open: Callable[[str], BinaryIO]
    where: Callable[[str], str]


def list_folder(path: Path) -> ImageFiles:
    """Every image below ``path``, by relative path.

    Hidden files and folders, folders of thumbnails and of deleted files that systems make (``@eaDir``, ``lost+found``
    ...) and files with other suffixes than images are passed over; links to folders are followed.

    Raises:
        DataError: as :func:`fastgan.data.load_dataset` says.
    """
    names = _walk(path, "", ())

    def read(name: str) -> bytes:
        return _read_file(path / name)

    def open_file(name: str) -> BinaryIO:
        return _open_file(path / name)

    def where(name: str) -> str:
        return quoted(path / name)

    return _list(names, read, open_file, where, quoted(path))


def list_zip(archive: SafeZip, path: Path) -> ImageFiles:
    """The same for a zip, as the dataset_tool.py of NVIDIA's StyleGAN repositories writes it, or any other with images.

    Raises:
        DataError: as :func:`fastgan.data.load_dataset` says.
    """

    def read(name: str) -> bytes:
        return archive.read(name, MAX_FILE_BYTES)

    def open_file(name: str) -> BinaryIO:
        return archive.open(name, MAX_FILE_BYTES)

    return _list(list(archive.entries), read, open_file, archive.where, quoted(path))


def decode_files(files: ImageFiles, resolution: int | None) -> np.ndarray:
    """All images, uint8 [N, C, S, S], resized where ``resolution`` is not None.

    Raises:
        DataError: as :func:`fastgan.data.load_dataset` says.
    """
    images = np.empty((0, 0, 0, 0), np.uint8)
    first_size = 0
    for index, name in enumerate(files.names):
        image = decode_image(files.read(name), files.where(name), partial(note_metadata, files, name))
        channels, size = image.shape[:2]
        if index == 0:
            first_size = size
            images = _allocate(len(files.names), channels, resolution or size, files.source)
        check_size(files, name, size, first_size)
        if channels > images.shape[1]:  # The first colour image among grey ones: all become RGB.
            grey = images[:index]
            images = _allocate(len(files.names), channels, images.shape[2], files.source)
            images[:index] = grey
        images[index] = image if resolution is None else resize_image(image, resolution)
    return images


def note_metadata(files: ImageFiles, name: str) -> None:
    """Notes in the log, once for a folder or zip, that the metadata of an image cannot be read."""
    noted = _noted[files.source]
    if not noted[0]:
        noted[0] = 1
        _logger.warning(
            "%s has metadata (EXIF, colour profile, text ...) that cannot be read; it is passed over, there and in "
            "other images of %s",
            files.where(name),
            files.source,
        )


def check_size(files: ImageFiles, name: str, size: int, first_size: int) -> None:
    """Refuses an image that is not as large as the first.

    Raises:
        DataError: one sentence.
    """
    if size != first_size:
        raise DataError(
            f"{files.where(name)} is {size}x{size} while {files.where(files.names[0])} is {first_size}x{first_size}; "
            "expected images of one size."
        )


def _walk(root: Path, folder: str, above: Sequence[tuple[int, int]]) -> list[str]:
    """Relative POSIX paths of all files below; ``above`` identifies the folders on the way, to find a link's loop."""
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
    """Whether a file or folder of that name is somebody's own."""
    return not name.startswith(".") and name.lower() not in _NOT_DATA


def _read_file(path: Path) -> bytes:
    with _open_file(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise DataError(f"{quoted(path)} cannot be read ({reason(error)}); expected a readable file.") from error


def _open_file(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe would wait for ever.
            raise DataError(f"{quoted(path)} is not a regular file; expected one that can be read to its end.")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{quoted(path)} has {status.st_size:,} bytes; expected at most {MAX_FILE_BYTES:,}.")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{quoted(path)} cannot be read ({reason(error)}); expected a readable file.") from error


def _list(
    names: list[str],
    read: Callable[[str], bytes],
    open_file: Callable[[str], BinaryIO],
    where: Callable[[str], str],
    source: str,
) -> ImageFiles:
    visible = sorted(name for name in names if all(map(_is_data, name.split("/"))))
    image_names = [name for name in visible if name.lower().endswith(SUFFIXES)]
    if not image_names:
        raise DataError(f"{source} holds no images; expected at least one file ending in {', '.join(SUFFIXES)}.")
    # Labels first: reading them costs little, and a fault in them should not wait for the last image to be decoded.
    labels = _labels(visible, image_names, read, where)
    _noted.setdefault(source, mmap.mmap(-1, 1))
    return ImageFiles(source, image_names, labels, read, open_file, where)


def _allocate(count: int, channels: int, size: int, source: str) -> np.ndarray:
    require_memory(count * channels * size**2, f"{source} ({count:,} images of {size}x{size})")
    return np.empty((count, channels, size, size), np.uint8)


def _labels(
    visible: list[str], image_names: list[str], read: Callable[[str], bytes], where: Callable[[str], str]
) -> np.ndarray | None:
    """int64 [N], or None where there is no dataset.json or it says that there are no labels.

    Labels of images that are not there are passed over: a subset of a labelled set is still labelled.
    """
    misplaced = [name for name in visible if PurePosixPath(name).name == LABELS_FILE and name != LABELS_FILE]
    if misplaced:
        raise DataError(
            f"{where(misplaced[0])} is below the top, where its labels do not apply; expected {LABELS_FILE} at the top."
        )
    if LABELS_FILE not in visible:
        return None
    label_of = _parse_labels(read(LABELS_FILE), where(LABELS_FILE))
    if label_of is None:
        return None
    # An accented letter is one character or two, by the system that wrote a name: both look alike.
    composed = {normalize("NFC", name): label for name, label in label_of.items()}
    found = [label_of.get(name, composed.get(normalize("NFC", name))) for name in image_names]
    missing = [name for name, label in zip(image_names, found, strict=True) if label is None]
    if missing:
        raise DataError(
            f"{where(LABELS_FILE)} has no label for {len(missing):,} of {len(image_names):,} images, first of them "
            f"{quoted(missing[0])}; expected one for each."
        )
    return np.array(found, np.int64)


def _parse_labels(data: bytes, where: str) -> dict[str, int] | None:
    expected = 'expected {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}'
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({reason(error)}); {expected}.") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise DataError(f"{where} has no 'labels'; {expected}.")
    pairs = content["labels"]
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise DataError(f"{where} holds labels of type {type(pairs).__name__}; {expected}.")
    label_of: dict[str, int] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise DataError(f"{where} holds {reprlib.repr(pair)} among its labels; {expected}.")
        name, label = pair[0].replace("\\", "/"), pair[1]
        if isinstance(label, list):
            raise DataError(
                f"{where} labels {quoted(name)} with the vector {reprlib.repr(label)}; expected a class number "
                "(one-hot and attribute vectors are not supported)."
            )
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**63:
            raise DataError(f"{where} labels {quoted(name)} with {reprlib.repr(label)}; expected an integer from 0.")
        if name in label_of:
            raise DataError(f"{where} labels {quoted(name)} twice; expected one label for each image.")
        label_of[name] = label
    return label_of

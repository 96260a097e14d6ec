"""Reads numpy's .npy and .npz. Object arrays are refused, so no data is unpickled."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastgan.data.archive import SafeZip
from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.limits import require_memory

NPY_MAGIC = b"\x93NUMPY"

# The first pair found is read. In order: fastgan's own, Keras's mnist.npz, MedMNIST, numpy.savez without names.
_KEYS = (("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels"), ("arr_0", "arr_1"))
_SHAPES = "uint8 of shape [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels"


class ArrayImages:
    """Images in an array, uint8 [N, C, H, W], with labels int64 [N] or None.

    The interface is that of :class:`fastgan.data.files.ImageFiles`.
    """

    class_names = None

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, name: str) -> None:
        self.images, self.labels, self._name = images, labels, name
        count, self.channels, height, width = images.shape
        self.sizes = [(width, height)] * count
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def where(self, index: int) -> str:
        return f"Image {index} of {self._name}"

    def read(self, index: int, resolution: int) -> tuple[np.ndarray, int | None]:
        return self.images[index], None if self.labels is None else int(self.labels[index])


def map_npy(path: Path) -> np.ndarray:
    """Memory-maps the images of a .npy file as uint8 [N, C, H, W]: indexing one reads it from the disk."""
    where = quoted(path)
    array = _read(lambda: np.lib.format.open_memmap(path, mode="r"), where)
    size, promised = path.stat().st_size, array.offset + array.nbytes
    if size != promised:
        raise DataError(f"{where} has {size:,} bytes; expected {promised:,} by its header.")
    return _images(array, where)


def load_npz(archive: SafeZip, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the images of a .npz file as uint8 [N, C, H, W], and its labels as int64 [N] if any."""
    keys = [name.removesuffix(".npy") for name in archive.entries if name.endswith(".npy")]
    pair = next((pair for pair in _KEYS if pair[0] in keys), None)
    if pair is None:
        raise DataError(
            f"{quoted(path)} holds the arrays {quoted(', '.join(keys))}; expected images under one of the names "
            f"{', '.join(images for images, _ in _KEYS)}."
        )

    def read(key: str) -> tuple[np.ndarray, str]:
        name = f"{key}.npy"
        where = archive.where(key)
        size = archive.entries[name].file_size
        require_memory(size, where)
        file = io.BytesIO(archive.read(name, size))
        return _read(lambda: np.lib.format.read_array(file, allow_pickle=False), where), where

    images = _images(*read(pair[0]))
    if pair[1] not in keys:
        return images, None
    labels, where = read(pair[1])
    return images, class_numbers(labels, len(images), where)


def _read(load: Callable[[], np.ndarray], where: str) -> np.ndarray:
    try:
        return load()
    # numpy's parser raises many types; on object arrays ValueError, before any data is unpickled.
    except Exception as error:
        raise DataError(f"{where} cannot be read as a .npy array ({reason(error)}); expected {_SHAPES}.") from error


def channels_first(array: np.ndarray, where: str) -> np.ndarray:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, C, H, W]; at least one image, with 1 or 3 channels."""
    found = f"{where} holds {array.dtype} of shape {list(array.shape)}"
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"{found}; expected at least one image: {_SHAPES}.")
    _, first, second, third = array.shape
    # (channels first, channels last); if both are possible, the layout with square images is chosen.
    layouts = [first in (1, 3), third in (1, 3)]
    if all(layouts):
        layouts = [second == third, first == second]
        if all(layouts) and first == 1:
            return array
    if all(layouts):
        raise DataError(f"{found}, which is both [N, C, H, W] and [N, H, W, C]; expected images larger than 3x3.")
    if not any(layouts):
        raise DataError(f"{found}; expected {_SHAPES}.")
    return array if layouts[0] else array.transpose(0, 3, 1, 2)


def _images(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype != np.uint8:
        raise DataError(f"{where} holds {array.dtype} of shape {list(array.shape)}; expected {_SHAPES}.")
    return channels_first(array, where)


def class_numbers(array: np.ndarray, count: int, where: str) -> np.ndarray:
    found = f"{where} holds {array.dtype} of shape {list(array.shape)}"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{found}; expected integer class numbers of shape [{count}].")
    if len(array) != count:
        raise DataError(f"{found} for {count:,} images; expected one label for each.")
    smallest, largest = int(array.min()), int(array.max())
    if smallest < 0 or largest >= 2**63:
        raise DataError(f"{where} holds labels from {smallest} to {largest}; expected class numbers from 0.")
    return array.astype(np.int64)

"""Data sets of which one image at a time is read, for those that are larger than the memory."""

import math
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastgan.data.archive import SafeZip
from fastgan.data.arrays import load_npz, map_npy
from fastgan.data.dataset import BUNDLED, check_resolution, recognize
from fastgan.data.decode import decode_image, read_header
from fastgan.data.errors import DataError
from fastgan.data.files import ImageFiles, check_size, list_folder, list_zip, note_metadata
from fastgan.data.idx import load_idx
from fastgan.data.pixels import resize_image


class LazyImages(Dataset):
    """Square images of one size, decoded and resized when they are asked for; made by :func:`open_dataset`.

    ``dataset[i]`` is an image, uint8 [C, S, S], and its label, an int or None. It raises DataError, one sentence, for
    an image that turns out to be broken. Forked processes may read the same object.

    Attributes:
        name: "digits" or "gaussians", or the path as given.
        image_shape: C, S, S.
        labels: class numbers from 0, int64 [N], or None.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], np.ndarray],
        image_shape: tuple[int, int, int],
        labels: np.ndarray | None,
        num_images: int,
    ) -> None:
        self.name = name
        self.image_shape = image_shape
        self.labels = None if labels is None else torch.from_numpy(labels)
        self._read = read
        self._num_images = num_images

    @property
    def num_bytes(self) -> int:
        """What all images take as bytes."""
        return self._num_images * math.prod(self.image_shape)

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        # Into memory of its own, which may be written to; a grey image among others fills all three channels.
        image = np.empty(self.image_shape, np.uint8)
        image[:] = resize_image(self._read(index), self.image_shape[-1])
        return torch.from_numpy(image), None if self.labels is None else int(self.labels[index])


def open_dataset(source: str | os.PathLike[str] = "digits", *, resolution: int | None = None) -> LazyImages:
    """Opens a data set without decoding it; its images are those of :func:`fastgan.data.load_dataset`.

    A folder, a zip of images and a .npy file stay on the disk. Of image files the names, the labels and the header of
    each, which tells its size, are read here; a file that is broken further on is found when it is decoded. IDX files
    and .npz, which cannot be read in parts, are loaded as they are.

    Raises:
        DataError: as ``load_dataset``, for what can be told before an image is decoded.
    """
    name = os.fspath(source)
    check_resolution(source, resolution)
    if source in BUNDLED:
        return _of_array(name, *BUNDLED[source](), resolution)
    kind, path = recognize(name)
    if kind == "folder":
        return _of_files(name, list_folder(path), resolution)
    if kind == "zip":
        archive = SafeZip(path)
        if not archive.holds_arrays:
            return _of_files(name, list_zip(archive, path), resolution)
        with archive:
            return _of_array(name, *load_npz(archive, path), resolution)
    images, labels = load_idx(path) if kind == "idx" else (map_npy(path), None)
    return _of_array(name, images, labels, resolution)


def _of_array(name: str, images: np.ndarray, labels: np.ndarray | None, resolution: int | None) -> LazyImages:
    count, channels, size, _ = images.shape
    shape = (channels, resolution or size, resolution or size)
    return LazyImages(name, images.__getitem__, shape, labels, count)


def _of_files(name: str, files: ImageFiles, resolution: int | None) -> LazyImages:
    headers = (_header(files, file) for file in files.names)
    channels, first_size = next(headers)
    for file, (file_channels, size) in zip(files.names[1:], headers, strict=True):
        check_size(files, file, size, first_size)
        channels = max(channels, file_channels)

    def read(index: int) -> np.ndarray:
        file = files.names[index]
        image = decode_image(files.read(file), files.where(file), partial(note_metadata, files, file))
        check_size(files, file, image.shape[-1], first_size)
        if len(image) > channels:
            raise DataError(f"{files.where(file)} is in colour now; expected the grey image that it was at the start.")
        return image

    shape = (channels, resolution or first_size, resolution or first_size)
    return LazyImages(name, read, shape, files.labels, len(files.names))


def _header(files: ImageFiles, name: str) -> tuple[int, int]:
    with files.open(name) as file:
        return read_header(file, files.where(name), partial(note_metadata, files, name))

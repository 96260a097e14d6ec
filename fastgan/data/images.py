"""Square images of one size from any reader: one by one, all in memory, or as a stream."""

import contextlib
import functools
import logging
import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.data.arrays import ArrayImages
from fastgan.data.errors import DataError, quoted, skipped
from fastgan.data.files import ImageFiles
from fastgan.data.limits import require_memory
from fastgan.data.own import DatasetImages, IterableImages, Pixels
from fastgan.data.pixels import fit_image, to_array, to_pillow
from fastgan.errors import unknown
from fastgan.random_state import seeded_random_state

_logger = logging.getLogger(__name__)

# ImageFiles describes the interface.
Reader = ArrayImages | DatasetImages | ImageFiles

FITS = ("crop", "pad", "stretch", "refuse")
_FITTED = {
    "crop": "the middle of each is kept (fit = 'crop')",
    "pad": "get black edges (fit = 'pad')",
    "stretch": "are stretched (fit = 'stretch')",
}


@dataclass(frozen=True)
class ImageDataset:
    """Square images of one size, all in memory.

    Attributes:
        name: "digits" or "gaussians", or the path as given.
        images: uint8 [N, C, S, S], C 1 (grayscale) or 3 (RGB), N at least 1; [N, 2, 1, 1] for points of the plane.
        labels: class indices from 0, int64 [N], or None.
    """

    name: str
    images: Tensor
    labels: Tensor | None


class _FittedImages:
    """Images of any shape, fitted to squares of one size.

    Args:
        name: the name of the data.
        reader: the reader of the images.
        resolution: the edge length; by default the smallest of the shorter sides.
        fit: as in :func:`fastgan.data.pixels.fit_image`, or ``refuse`` to accept only square images of one size.

    Attributes:
        name: name of the bundled data, the path as given, or a description of the object.
        image_shape: C, S, S.
        class_names: names of the classes, or None.
        notes: sentences for the user on images that are fitted or left out.
    """

    def __init__(self, name: str, reader: Reader | IterableImages, resolution: int | None, fit: str) -> None:
        if fit not in FITS:
            raise DataError(unknown("fit", fit, FITS) + ".")
        self.name, self.class_names, self._reader, self._fit = name, reader.class_names, reader, fit
        sizes = reader.sizes
        resolution = resolution or min(map(min, sizes))
        self.image_shape = reader.channels, resolution, resolution
        self._first_size = sizes[0]
        others = sum(width != height for width, height in sizes)
        checked = "" if isinstance(self, LazyImages) and len(sizes) == len(self) else "checked "
        share = f"{others:,} of {len(sizes):,} {checked}images are not square"
        self.notes = [*reader.notes, *([f"{share}, and {_FITTED.get(fit)}"] if others else [])]
        if fit == "refuse":
            for index, size in enumerate(sizes):
                self._require_size(size, index)

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """Class indices from 0, int64 [N], or None; a Dataset's may have to be read item by item."""
        labels = self._reader.labels
        return None if labels is None else torch.from_numpy(labels)

    def _fit_into(self, image: np.ndarray, pixels: Pixels, index: int) -> None:
        """Fits a Pillow image or an array [C, H, W] into ``image``; gray is repeated to three channels if needed."""
        is_array = isinstance(pixels, np.ndarray)
        if self._fit == "refuse":
            self._require_size(pixels.shape[:0:-1] if is_array else pixels.size, index)
        if not is_array or pixels.shape[1:] != image.shape[1:]:
            pixels = to_array(fit_image(to_pillow(pixels) if is_array else pixels, image.shape[-1], self._fit))
        image[:] = pixels

    def _require_size(self, size: tuple[int, int], index: int) -> None:
        found = f"{self._reader.where(index)} is {size[0]}x{size[1]}"
        if size[0] != size[1]:
            raise DataError(f"{found}; expected a square image, or another fit than 'refuse'.")
        if size != self._first_size:
            raise DataError(
                f"{found} while {self._reader.where(0)} is {self._first_size[0]}x{self._first_size[1]}; expected "
                "images of one size, or another fit than 'refuse'."
            )


class LazyImages(_FittedImages):
    """Square images of one size, each read, decoded and fitted on access; made by :func:`open_dataset`.

    ``dataset[i]`` is an image, uint8 [C, S, S], and its label, an int or None. It raises DataError, one sentence, for a
    broken image; with ``skip_broken`` it returns the next readable image instead. Forked processes may share the
    object.

    Attributes:
        is_random: whether reading an image twice may give different pixels, because of a Dataset's transforms.
        num_bytes: the size of all images in memory.
    """

    def __init__(self, name: str, reader: Reader, resolution: int | None, fit: str, skip_broken: bool) -> None:
        super().__init__(name, reader, resolution, fit)
        self.is_random = getattr(reader, "is_random", False)
        self.num_bytes = len(reader) * math.prod(self.image_shape)
        self._skip_broken = skip_broken
        self._warned = mmap.mmap(-1, 1)  # Forked processes share the byte.

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        images, labels = self.batch([index])
        return images[0], labels[0]

    def batch(self, indices: Sequence[int], seed: int = 0) -> tuple[Tensor, list[int | None]]:
        """The images at ``indices``, uint8 [n, C, S, S], and their labels.

        ``seed`` seeds the global generators of torch, numpy and Python, for a Dataset's random transforms.
        """
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        with seeded_random_state(seed) if self.is_random else contextlib.nullcontext():
            labels = [self._read_whole(index, image) for index, image in zip(indices, images, strict=True)]
        return torch.from_numpy(images), labels

    def load(self) -> ImageDataset:
        """Reads all images into memory, without broken ones if ``skip_broken`` is set."""
        require_memory(self.num_bytes, f"{quoted(self.name)} ({len(self):,} images of {self.image_shape[-1]} pixels)")
        images = np.empty((len(self), *self.image_shape), np.uint8)
        labels: list[int | None] = []
        broken: dict[int, DataError] = {}
        with seeded_random_state(0) if self.is_random else contextlib.nullcontext():
            for index in range(len(self)):
                try:
                    labels.append(self._read(index, images[index]))
                except DataError as error:
                    broken[index] = error
        if broken:
            self.notes.append(skipped(list(broken.values()), len(self), self._skip_broken))
            images = images[[index not in broken for index in range(len(self))]]
        return ImageDataset(self.name, torch.from_numpy(images), None if None in labels else torch.tensor(labels))

    def _read(self, index: int, image: np.ndarray) -> int | None:
        pixels, label = self._reader.read(index, self.image_shape[-1])
        self._fit_into(image, pixels, index)
        return label

    def _read_whole(self, index: int, image: np.ndarray) -> int | None:
        for following in range(len(self) if self._skip_broken else 1):
            try:
                return self._read((index + following) % len(self), image)
            except DataError as error:
                broken = error
                if self._skip_broken and not self._warned[0]:
                    self._warned[0] = 1
                    _logger.warning("%s; it is left out, and so are other broken images", str(error).rstrip("."))
        if self._skip_broken:
            raise broken
        raise DataError(f"{str(broken).rstrip('.')}; skip_broken = true continues without such images.") from broken


class ImageStream(_FittedImages):
    """Square images of one size from an iterable Dataset, repeated endlessly; made by :func:`open_images`.

    ``labels`` has one label per class, if the dataset names them.
    """

    def batches(self, sizes: Iterable[int]) -> Iterator[tuple[Tensor, list[int | None]]]:
        """Yields batches of the given sizes, uint8 [n, C, S, S], and their labels."""
        items = enumerate(self._reader)
        for size in sizes:
            images, labels = np.empty((size, *self.image_shape), np.uint8), []
            for image, (index, (pixels, label)) in zip(images, items, strict=False):
                self._fit_into(image, pixels, index)
                labels.append(label)
            yield torch.from_numpy(images), labels

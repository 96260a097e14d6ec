"""Data passed by a program: map-style and iterable torch Datasets, arrays and tensors.

Items are images, pairs of an image and its class index, or mappings with ``image`` (or ``img``) and optionally
``label``, as in Hugging Face's datasets. An image is a Pillow image, or an array or tensor of shape [H, W], [C, H, W]
or [H, W, C] with 1 or 3 channels, of dtype uint8 or floating-point.

Floating-point values are in [0, 1], as from torchvision's ``ToTensor``, or in [-1, 1], as from ``Normalize(0.5, 0.5)``.
The minimum over up to 64 images, spread over the data, decides for all: at least 0, or at most -0.5. Another minimum is
refused, and so is a later value outside the range. Values are rounded to 8 bits.
"""

import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fastgan.data.arrays import ArrayImages, channels_first, class_numbers
from fastgan.data.decode import upright_pixels
from fastgan.data.errors import DataError
from fastgan.data.pixels import to_uint8
from fastgan.random_state import seeded_random_state

_logger = logging.getLogger(__name__)
_CHECKED = 64
# How far rounding errors may move a value outside its range.
_TOLERANCE = 1e-3

Pixels = Image.Image | np.ndarray


class _Items:
    """Converts the items of a dataset to pixels, after checking some of them.

    Attributes:
        channels: 3 if any of the checked images is in color, else 1.
        sizes: width and height of each checked image.
        class_names: the dataset's ``classes``, or None.
        notes: an empty list.
    """

    def __init__(self, dataset: Any, name: str, checked: Iterator[Any]) -> None:
        self._dataset, self._name = dataset, name
        self._signed: bool | None = None
        images, self._labels = [], []
        for item in checked:
            image, label = _split(item)
            images.append(_stored(image, f"An item of {name}"))
            self._labels.append(label)
        if not images:
            raise DataError(f"{name} is empty; expected at least one image.")
        floats = [image for image in images if isinstance(image, np.ndarray) and image.dtype != np.uint8]
        if floats:
            self._signed = _is_signed(min(float(image.min()) for image in floats), name)
        pixels = [_to_bytes(image, self._signed, name) for image in images]
        self.sizes = [image.size if isinstance(image, Image.Image) else image.shape[:0:-1] for image in pixels]
        self.channels = max(map(_channels, pixels))
        names = getattr(dataset, "classes", None)
        self.class_names = tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
        self.notes: list[str] = []

    def where(self, index: int) -> str:
        return f"Item {index} of {self._name}"

    def _converted(self, item: Any, index: int) -> tuple[Pixels, int | None]:
        image, label = _split(item)
        where = self.where(index)
        pixels = _to_bytes(_stored(image, where), self._signed, where)
        if _channels(pixels) > self.channels:
            raise DataError(f"{where} is in color; expected a grayscale image, as all checked images are.")
        return pixels, label


class DatasetImages(_Items):
    """Images of a map-style dataset: any object with ``len`` and indices from 0; see the module for its items."""

    is_random = True  # The dataset's transforms may draw from the global generators.

    def __init__(self, dataset: Any, name: str) -> None:
        self._step = max(1, math.ceil(len(dataset) / _CHECKED))
        super().__init__(dataset, name, (dataset[index] for index in range(0, len(dataset), self._step)))

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int, resolution: int) -> tuple[Pixels, int | None]:
        return self._converted(self._dataset[index], index)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Class indices, int64 [N]; None if an item has none.

        These are the dataset's ``targets`` if they agree with the checked items; otherwise each item is read once.
        """
        if None in self._labels:
            return None
        try:
            targets = np.asarray(self._dataset.targets)
            is_whole = targets.dtype.kind in "iu" and len(targets) == len(self)
            if is_whole and targets[:: self._step].tolist() == self._labels:
                return class_numbers(targets, len(self), self._name)
        except (AttributeError, ValueError, TypeError):
            pass
        _logger.warning("%s has no targets that agree with its items; each is read once for its label", self._name)
        with seeded_random_state(0):
            labels = [_split(self._dataset[index])[1] for index in range(len(self))]
        return None if None in labels else class_numbers(np.array(labels), len(self), self._name)


class IterableImages(_Items):
    """Images of an iterable dataset, repeated endlessly."""

    def __init__(self, dataset: Any, name: str) -> None:
        super().__init__(dataset, name, itertools.islice(iter(dataset), _CHECKED))

    def __iter__(self) -> Iterator[tuple[Pixels, int | None]]:
        index = 0
        while True:
            before = index
            for item in self._dataset:
                yield self._converted(item, index)
                index += 1
            if index == before:
                raise DataError(
                    f"{self._name} gives no items; expected an endless dataset, or one that can be read again."
                )

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Class indices, int64 [K], if the dataset has ``classes`` and its items have labels; else None."""
        labeled = self.class_names is not None and None not in self._labels
        return np.arange(len(self.class_names)) if labeled else None


def images_of(data: Any, name: str) -> ArrayImages | DatasetImages | IterableImages:
    """Makes the reader of a Dataset, array or tensor."""
    if isinstance(data, Tensor | np.ndarray):
        return _array_images(data, None, name)
    if type(data) is TensorDataset and len(data.tensors) <= 2:
        return _array_images(*(*data.tensors, None)[:2], name)
    if isinstance(data, DataLoader):
        raise DataError(f"{name} makes batches itself; expected its dataset, which is its attribute 'dataset'.")
    if isinstance(data, Mapping):
        raise DataError(f"{name} holds {', '.join(map(repr, data))}; expected one of them, such as the split 'train'.")
    if isinstance(data, Iterator):
        raise DataError(f"{name} can be read only once; expected a torch IterableDataset, which can be read again.")
    with seeded_random_state(0):
        if not isinstance(data, IterableDataset) and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
            return DatasetImages(data, name)
        if hasattr(data, "__iter__"):
            return IterableImages(data, name)
    raise DataError(f"The data are {name}; expected a path, a torch Dataset, an array or a tensor.")


def name_of(data: Any) -> str:
    """The name of a Dataset, array or tensor in messages."""
    shape = f" of shape {list(data.shape)}" if isinstance(data, Tensor | np.ndarray) else ""
    return f"{type(data).__name__}{shape}"


def _array_images(images: Tensor | np.ndarray, labels: Tensor | None, name: str) -> ArrayImages:
    array = channels_first(_stored(images, name, batch=True), name)
    if array.dtype != np.uint8:
        array = _to_bytes(array, _is_signed(float(array.min()), name), name)
    found = None if labels is None else class_numbers(labels.cpu().numpy(), len(array), name)
    return ArrayImages(array, found, name)


def _split(item: Any) -> tuple[Any, int | None]:
    """An item's image, and its class index or None."""
    label = None
    if isinstance(item, Mapping):
        item, label = item.get("image", item.get("img")), item.get("label")
    elif isinstance(item, tuple | list) and item:
        item, label = item[0], item[1] if len(item) > 1 else None
    if isinstance(label, Tensor | np.ndarray | np.generic) and math.prod(label.shape) == 1:
        label = label.item()
    return item, label if isinstance(label, int) and not isinstance(label, bool) and label >= 0 else None


def _stored(image: Any, where: str, *, batch: bool = False) -> Pixels:
    """Converts an image to a Pillow image of mode L or RGB, or to an array [C, H, W], uint8 or float32."""
    if isinstance(image, Image.Image):
        return upright_pixels(image, where)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.float().numpy() if image.is_floating_point() else image.numpy()
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"{where} is of type {type(image).__name__}; expected a Pillow image, array or tensor, or a pair of one "
            "and its class number."
        )
    if image.dtype != np.uint8:
        if image.dtype.kind != "f":
            raise DataError(f"{where} holds {image.dtype}; expected uint8 or a floating-point type.")
        image = image.astype(np.float32, copy=False)
    return image if batch else channels_first(image[None], where)[0]


def _to_bytes(pixels: Pixels, signed: bool | None, where: str) -> Pixels:
    """Converts pixels to uint8; floating-point pixels are in [-1, 1] if ``signed``, else in [0, 1]."""
    if isinstance(pixels, Image.Image) or pixels.dtype == np.uint8:
        return pixels
    low = -1.0 if signed else 0.0
    found = float(pixels.min()), float(pixels.max())
    if signed is None or not (low - _TOLERANCE <= found[0] and found[1] <= 1 + _TOLERANCE):
        expected = "bytes" if signed is None else f"[{low:g}, 1]"
        raise DataError(
            f"{where} has values from {found[0]:.3g} to {found[1]:.3g}; expected {expected}, as in the checked images."
        )
    return to_uint8(torch.from_numpy(pixels if signed else 2 * pixels - 1)).numpy()


def _is_signed(least: float, name: str) -> bool:
    if -0.5 < least < -_TOLERANCE:
        raise DataError(
            f"{name} has floating-point images whose least value is {least:.3g}; expected them in [0, 1], or in "
            "[-1, 1] with values of -0.5 or less, or uint8."
        )
    return least <= -0.5


def _channels(pixels: Pixels) -> int:
    return len(pixels.getbands()) if isinstance(pixels, Image.Image) else len(pixels)

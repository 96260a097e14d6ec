"""Opening a data set from a path: one image at a time, or all in memory."""

import contextlib
import functools
import logging
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastgan.data.archive import SafeZip
from fastgan.data.arrays import NPY_MAGIC, ArrayImages, load_npz, map_npy
from fastgan.data.errors import DataError, quoted, reason, skipped
from fastgan.data.files import Folder, ImageFiles
from fastgan.data.gaussians import load_gaussians
from fastgan.data.idx import GZIP_MAGIC, TRAIN_IMAGES, load_idx
from fastgan.data.kinds import START_BYTES, refusal, torch_refusal
from fastgan.data.limits import require_memory
from fastgan.data.own import IterableImages, Pixels, drawing_from, images_of, name_of
from fastgan.data.pixels import fit_image, to_array, to_pillow
from fastgan.errors import unknown

_SOURCES = (
    "'digits', 'photos', 'gaussians', a folder of images, a zip of images, an IDX file (.gz or not), .npy or .npz"
)
_ZIP_MAGIC = b"PK"
_logger = logging.getLogger(__name__)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 real handwritten digits, uint8 [1797, 1, 8, 8], and their classes 0..9, int64 [1797].

    Light strokes on a dark background, as in MNIST. Each stored value counts the dark pixels (0..16) of a 4x4 cell of
    the scanned bitmap and is scaled to 0..255. Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998 (its test part), as carried by scikit-learn.
    """
    # scikit-learn takes seconds to import, and only this source needs it.
    from sklearn.datasets import load_digits as load_bundled

    bundled = load_bundled()
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
    return images[:, None], bundled.target.astype(np.int64)


def load_photos() -> tuple[np.ndarray, np.ndarray]:
    """2,754 crops of two photographs in color, uint8 [2754, 3, 64, 64], and the photograph of each, int64 [2754].

    The photographs are a Chinese temple (class 0) and a flower (1), 640x427 each, reduced to a third; a crop begins at
    every third pixel. Source: "china.jpg" by danielbuechele and "flower.jpg" by vultilion on Flickr, CC BY 2.0, as
    carried by scikit-learn.
    """
    from sklearn.datasets import load_sample_images

    crops = []
    for photo in load_sample_images().images:
        small = np.asarray(Image.fromarray(photo).reduce(3))
        crops.append(np.lib.stride_tricks.sliding_window_view(small, (64, 64), (0, 1))[::3, ::3].reshape(-1, 3, 64, 64))
    return np.concatenate(crops), np.repeat(np.arange(2), list(map(len, crops)))


BUNDLED = {"digits": load_digits, "gaussians": load_gaussians, "photos": load_photos}


FITS = ("crop", "pad", "stretch", "refuse")
_FITTED = {
    "crop": "the middle of each is kept (fit = 'crop')",
    "pad": "get black edges (fit = 'pad')",
    "stretch": "are stretched (fit = 'stretch')",
}


class Reader(Protocol):
    """Stored images by their index."""

    channels: int
    sizes: Sequence[tuple[int, int]]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    notes: list[str]

    def __len__(self) -> int: ...
    def where(self, index: int) -> str: ...
    def read(self, index: int, resolution: int) -> tuple[Pixels, int | None]: ...


@dataclass(frozen=True)
class ImageDataset:
    """Square images of one size, all in memory.

    Attributes:
        name: "digits" or "gaussians", or the path as given.
        images: uint8 [N, C, S, S], C 1 (grayscale) or 3 (RGB), N at least 1; [N, 2, 1, 1] for points of the plane.
        labels: class numbers from 0, int64 [N], or None.
    """

    name: str
    images: Tensor
    labels: Tensor | None


class LazyImages:
    """Square images of one size, each read, decoded and fitted when it is wanted; made by :func:`open_dataset`.

    ``dataset[i]`` is an image, uint8 [C, S, S], and its label, an int or None. It raises DataError, one sentence, for
    an image that turns out to be broken; with ``skip_broken`` the next whole one takes its place. Forked processes may
    read the same object.

    Attributes:
        name: of the bundled data, the path as given, or what kind of object was.
        image_shape: C, S, S.
        class_names: of the classes, where the data name them, or None.
        is_random: whether reading an image twice may give different pixels, by a Dataset's own transforms.
        num_bytes: the size of all images in memory.
        notes: sentences for the user: images that are fitted or left out.
    """

    def __init__(self, name: str, reader: Reader, resolution: int | None, fit: str, skip_broken: bool) -> None:
        self.name, self.class_names, self.notes = name, reader.class_names, list(reader.notes)
        self.is_random = getattr(reader, "is_random", False)
        self._fitting = Fitting(reader, resolution, fit)
        self.image_shape = self._fitting.image_shape
        self.notes += self._fitting.notes
        self.num_bytes = len(reader) * math.prod(self.image_shape)
        self._reader, self._skip_broken = reader, skip_broken
        self._warned = mmap.mmap(-1, 1)  # Forked processes share the byte.

    def __len__(self) -> int:
        return len(self._reader)

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """Class numbers from 0, int64 [N], or None; of a Dataset they may have to be read item by item."""
        labels = self._reader.labels
        return None if labels is None else torch.from_numpy(labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        images, labels = self.batch([index])
        return images[0], labels[0]

    def batch(self, indices: Sequence[int], seed: int = 0) -> tuple[Tensor, list[int | None]]:
        """The images at ``indices``, uint8 [n, C, S, S], and their labels.

        Args:
            indices: from 0, at least one.
            seed: of the global generators of torch, numpy and Python while a Dataset's own transforms draw from them.
        """
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        with drawing_from(seed) if self.is_random else contextlib.nullcontext():
            labels = [self._read_whole(index, image) for index, image in zip(indices, images, strict=True)]
        return torch.from_numpy(images), labels

    def load(self, *, with_labels: bool = True) -> ImageDataset:
        """Reads all images into memory, without the broken ones where these are skipped."""
        require_memory(self.num_bytes, f"{quoted(self.name)} ({len(self):,} images of {self.image_shape[-1]} pixels)")
        images = np.empty((len(self), *self.image_shape), np.uint8)
        broken: dict[int, DataError] = {}
        with drawing_from(0) if self.is_random else contextlib.nullcontext():
            for index in range(len(self)):
                try:
                    self._read(index, images[index])
                except DataError as error:
                    broken[index] = error
        labels = self.labels if with_labels else None
        if broken:
            self.notes.append(skipped(list(broken.values()), len(self), whole=self._skip_broken))
            whole = [index for index in range(len(self)) if index not in broken]
            images, labels = images[whole], None if labels is None else labels[whole]
        return ImageDataset(self.name, torch.from_numpy(images), labels)

    def _read(self, index: int, image: np.ndarray) -> int | None:
        pixels, label = self._reader.read(index, self.image_shape[-1])
        self._fitting.into(image, pixels, lambda: self._reader.where(index))
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


class ImageStream:
    """The images of an iterable Dataset as squares of one size, again and again; made by :func:`open_images`.

    The attributes are those of :class:`LazyImages`; ``labels`` are one of each class, of a dataset that names them.
    """

    def __init__(self, name: str, reader: IterableImages, resolution: int | None, fit: str) -> None:
        self.name, self.class_names, self._reader = name, reader.class_names, reader
        self._fitting = Fitting(reader, resolution, fit)
        self.image_shape, self.notes = self._fitting.image_shape, self._fitting.notes
        self.labels = None if reader.labels is None else torch.from_numpy(reader.labels)

    def batches(self, sizes: Iterable[int]) -> Iterator[tuple[Tensor, list[int | None]]]:
        """Batches of these sizes, uint8 [n, C, S, S], and their labels."""
        items = enumerate(self._reader)
        for size in sizes:
            images, labels = np.empty((size, *self.image_shape), np.uint8), []
            for image, (index, (pixels, label)) in zip(images, items, strict=False):
                self._fitting.into(image, pixels, lambda index=index: self._reader.where(index))
                labels.append(label)
            yield torch.from_numpy(images), labels


class Fitting:
    """Images of any shape to squares of one size.

    Args:
        reader: of the images.
        resolution: the edge length; by default the least of the shorter sides.
        fit: as in :func:`fastgan.data.pixels.fit_image`, or ``refuse`` for images that are not square and of one size.

    Attributes:
        image_shape: C, S, S.
        notes: a sentence on images that are not square.
    """

    def __init__(self, reader: "Reader | IterableImages", resolution: int | None, fit: str) -> None:
        if fit not in FITS:
            raise DataError(unknown("fit", fit, FITS) + ".")
        sizes = reader.sizes
        resolution = resolution or min(map(min, sizes))
        self.image_shape = reader.channels, resolution, resolution
        self._fit, self._first, self._where = fit, sizes[0], reader.where(0)
        others = sum(width != height for width, height in sizes)
        looked_at = "" if len(sizes) == getattr(reader, "__len__", lambda: -1)() else " that were looked at"
        share = f"{others:,} of {len(sizes):,} images{looked_at} are not square"
        self.notes = [f"{share}, and {_FITTED.get(fit)}"] if others else []
        if fit == "refuse":
            for index, size in enumerate(sizes):
                self._require(size, lambda index=index: reader.where(index))

    def into(self, image: np.ndarray, pixels: Pixels, where: Callable[[], str]) -> None:
        """Writes pixels, a Pillow image or an array [C, H, W], into ``image``; gray ones into three channels too."""
        is_array = isinstance(pixels, np.ndarray)
        if self._fit == "refuse":
            self._require(pixels.shape[:0:-1] if is_array else pixels.size, where)
        if not is_array or pixels.shape[1:] != image.shape[1:]:
            pixels = to_array(fit_image(to_pillow(pixels) if is_array else pixels, image.shape[-1], self._fit))
        image[:] = pixels

    def _require(self, size: tuple[int, int], where: Callable[[], str]) -> None:
        width, height = size
        if width != height:
            raise DataError(f"{where()} is {width}x{height}; expected a square image, or another fit than 'refuse'.")
        if size != self._first:
            raise DataError(
                f"{where()} is {width}x{height} while {self._where} is {self._first[0]}x{self._first[1]}; expected "
                "images of one size, or another fit than 'refuse'."
            )


def load_dataset(
    source: Any = "digits", *, resolution: int | None = None, fit: str = "crop", skip_broken: bool = False
) -> ImageDataset:
    """Load and check a whole data set, on the CPU.

    The content of a path decides what it is, not its suffix:

    - ``"digits"``: scikit-learn's 1,797 handwritten digits, 8x8 grayscale with labels; ``"./digits"`` is a path.
    - ``"photos"``: 2,754 crops of scikit-learn's two photographs, 64x64 in color, with the photograph as label.
    - ``"gaussians"``: 10,000 points of the plane around eight centers, images of 1x1 with two channels, with labels.
    - A folder: every .png, .jpg, .jpeg, .webp, .bmp, .gif, .tif, .tiff, .ppm and .pgm below it, sorted by relative
      path. Hidden files and folders are ignored, and so are those that systems make (``@eaDir``, ``__MACOSX``,
      ``lost+found`` ...). Labels come from a ``dataset.json`` at its top, as in the zip; without one, each folder at
      the top is a class, in the order of their names, where there are several and all images are in them.
    - A zip in the layout that NVIDIA's dataset_tool writes: image files, and ``dataset.json`` holding
      ``{"labels": [["00000/img00000000.png", 6], ...]}`` or ``{"labels": null}``.
    - An MNIST-style IDX file of images, or a folder with ``train-images-idx3-ubyte`` in it (the plain file before the
      .gz); labels come from the matching file beside it.
    - .npy: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]; .npz: likewise, named ``images`` and optionally ``labels``
      (or x_train and y_train, train_images and train_labels, arr_0 and arr_1).
    - A torch Dataset that is map-style, an array or a tensor; :mod:`fastgan.data.own` says of what.

    Grayscale files have one channel and all others three; a mixture becomes RGB. Transparency is composited over
    white, 16 bits are scaled to 8, the EXIF orientation is applied. Unreadable metadata is ignored, with one warning
    in the log.

    Args:
        source: what to load.
        resolution: resize to this edge length, with Pillow's antialiased bicubic filter; by default the least of the
            images' shorter sides.
        fit: what is done with images that are not square: ``crop`` (the shorter side is resized, the middle kept),
            ``pad``, ``stretch`` or ``refuse``, which also refuses images of several sizes.
        skip_broken: continue without images that cannot be read.

    Raises:
        DataError: one sentence with what was found and what is expected, for a path that is missing or cannot be read;
            no images; an image that is broken, or past the limits in ``fastgan/data/limits.py``, with how many there
            are; a zip that is corrupt, encrypted, escapes its root or explodes; an IDX file with a wrong magic number
            or length; an array of another type or shape; labels that are not one integer for each image; a resolution
            that is not a positive integer, or is not 1 for ``"gaussians"``; more data than memory.
    """
    return open_dataset(source, resolution=resolution, fit=fit, skip_broken=skip_broken).load()


def open_dataset(
    source: Any = "digits", *, resolution: int | None = None, fit: str = "crop", skip_broken: bool = False
) -> LazyImages:
    """Opens what :func:`load_dataset` loads, without decoding it.

    A folder, a zip of images and a .npy file stay on the disk. Of image files the names, the labels and the header of
    each are read here; damage behind the header is found when the image is decoded. Of a Dataset up to 64 items are
    looked at. IDX files and .npz, which cannot be read in parts, are loaded as they are.

    Raises:
        DataError: as ``load_dataset``, for what can be seen before an image is decoded.
    """
    _check_resolution(source, resolution)
    opened = open_images(source, resolution=resolution, fit=fit, skip_broken=skip_broken)
    if isinstance(opened, ImageStream):
        raise DataError(
            f"{opened.name} has no length and no indices; expected a map-style Dataset, or a list of items."
        )
    return opened


def open_images(
    source: Any, *, resolution: int | None = None, fit: str = "crop", skip_broken: bool = False
) -> "LazyImages | ImageStream":
    """Opens what :func:`open_dataset` does, or an iterable Dataset."""
    _check_resolution(source, resolution)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return LazyImages(name, _open_path(source, name, skip_broken), resolution, fit, skip_broken)
    reader, name = images_of(source), name_of(source)
    if isinstance(reader, IterableImages):
        return ImageStream(name, reader, resolution, fit)
    return LazyImages(name, reader, resolution, fit, skip_broken)


def _open_path(source: str | os.PathLike[str], name: str, skip_broken: bool) -> Reader:
    # A Path is never a bundled set: Path("./digits") has lost its dot.
    if isinstance(source, str) and source in BUNDLED:
        return ArrayImages(*BUNDLED[source](), name)
    kind, path = _recognize(name)
    if kind == "folder":
        return ImageFiles(Folder(path), path, skip_broken=skip_broken)
    if kind == "npy":
        return ArrayImages(map_npy(path), None, quoted(name))
    if kind == "idx":
        return ArrayImages(*load_idx(path), quoted(name))
    archive = SafeZip(path)
    if any(entry.endswith("/data.pkl") for entry in archive.names):
        raise DataError(torch_refusal(quoted(name)) + ".")
    if not archive.holds_arrays:
        return ImageFiles(archive, path, skip_broken=skip_broken)
    with archive:
        return ArrayImages(*load_npz(archive, path), quoted(name))


def absolute_source(source: str) -> str:
    """The path of ``source`` made absolute, so that it holds in any folder; the name of a bundled set as it is."""
    # Of "" the absolute path would be the current folder.
    return source if source in BUNDLED or not source else os.path.abspath(source)


def _check_resolution(source: Any, resolution: int | None) -> None:
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1):
        raise DataError(f"The resolution is {resolution!r}; expected a positive integer.")
    if isinstance(source, str) and source == "gaussians" and resolution not in (None, 1):
        raise DataError(
            f"'gaussians' holds points of the plane, as images of 1x1, which cannot be resized to "
            f"{resolution}x{resolution}; expected resolution 1."
        )


def _recognize(name: str) -> tuple[Literal["folder", "zip", "idx", "npy"], Path]:
    """The kind of a source, and the file or folder to read. A zip holds image files or arrays."""
    path = Path(name)
    try:
        if not name:  # Path("") would be the current folder.
            raise FileNotFoundError
        mode = path.stat().st_mode
        start = b"" if not stat.S_ISREG(mode) else _first_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no file or folder {quoted(name)}; expected {_SOURCES}.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name.
        raise DataError(f"{quoted(name)} cannot be read ({reason(error)}); expected {_SOURCES}.") from error

    if stat.S_ISDIR(mode):
        idx_file = next((path / file for file in TRAIN_IMAGES if (path / file).is_file()), None)
        return ("folder", path) if idx_file is None else ("idx", idx_file)
    if not stat.S_ISREG(mode):
        raise DataError(f"{quoted(name)} is neither a regular file nor a folder; expected {_SOURCES}.")
    # The content decides. The suffix decides only where the content does not, so that the error fits what was meant.
    if start.startswith(NPY_MAGIC):
        return "npy", path
    if start.startswith(_ZIP_MAGIC) or path.suffix.lower() in (".zip", ".npz"):
        return "zip", path
    if (sentence := refusal(quoted(name), start)) is not None:
        raise DataError(sentence + ".")
    if start.startswith((GZIP_MAGIC, b"\0\0")) or "idx" in path.name.lower() or path.suffix.lower() == ".gz":
        return "idx", path
    if path.suffix.lower() == ".npy":
        return "npy", path
    found = f"begins with the bytes {start[:6].hex(' ')}" if start else "is empty"
    raise DataError(f"{quoted(name)} {found}; expected {_SOURCES}.")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(START_BYTES)

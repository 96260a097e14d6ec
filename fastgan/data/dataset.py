"""Opening a data set from a path: one image at a time, or all in memory."""

import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastgan.data.archive import SafeZip
from fastgan.data.arrays import NPY_MAGIC, load_npz, map_npy
from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.files import Folder, ImageFiles
from fastgan.data.gaussians import load_gaussians
from fastgan.data.idx import GZIP_MAGIC, TRAIN_IMAGES, load_idx
from fastgan.data.limits import require_memory
from fastgan.data.pixels import resize_image

_SOURCES = "'digits', 'gaussians', a folder of images, a zip of images, an IDX file (.gz or not), .npy or .npz"
_ZIP_MAGIC = b"PK"


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


BUNDLED = {"digits": load_digits, "gaussians": load_gaussians}


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


class LazyImages(Dataset):
    """Square images of one size, each read, decoded and resized when it is indexed; made by :func:`open_dataset`.

    ``dataset[i]`` is an image, uint8 [C, S, S], and its label, an int or None. It raises DataError, one sentence, for
    an image that turns out to be broken. Forked processes may read the same object.

    Attributes:
        name: "digits" or "gaussians", or the path as given.
        image_shape: C, S, S.
        labels: class numbers from 0, int64 [N], or None.
        num_bytes: the size of all images in memory.
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
        self.num_bytes = num_images * math.prod(image_shape)
        self._read = read
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        image = np.empty(self.image_shape, np.uint8)
        self._read_into(image, index)
        return torch.from_numpy(image), None if self.labels is None else int(self.labels[index])

    def load(self) -> ImageDataset:
        """Reads all images into memory."""
        require_memory(self.num_bytes, f"{quoted(self.name)} ({len(self):,} images of {self.image_shape[-1]} pixels)")
        images = np.empty((len(self), *self.image_shape), np.uint8)
        for index in range(len(self)):
            self._read_into(images[index], index)
        return ImageDataset(self.name, torch.from_numpy(images), self.labels)

    def _read_into(self, image: np.ndarray, index: int) -> None:
        # A grayscale image among RGB ones is broadcast to three channels.
        image[:] = resize_image(self._read(index), self.image_shape[-1])


def load_dataset(source: str | os.PathLike[str] = "digits", *, resolution: int | None = None) -> ImageDataset:
    """Load and check a whole data set, on the CPU.

    The content of ``source`` decides what it is, not its suffix:

    - ``"digits"``: scikit-learn's 1,797 handwritten digits, 8x8 grayscale with labels; ``"./digits"`` is a path.
    - ``"gaussians"``: 10,000 points of the plane around eight centers, images of 1x1 with two channels, with labels.
    - A folder: every .png, .jpg, .jpeg, .webp, .bmp, .gif, .tif, .tiff, .ppm and .pgm below it, sorted by relative
      path. Hidden files and folders are ignored, and so are those that systems make (``@eaDir``, ``__MACOSX``,
      ``lost+found`` ...). Labels come from a ``dataset.json`` at its top, as in the zip.
    - A zip in the layout that NVIDIA's dataset_tool writes: image files, and ``dataset.json`` holding
      ``{"labels": [["00000/img00000000.png", 6], ...]}`` or ``{"labels": null}``.
    - An MNIST-style IDX file of images, or a folder with ``train-images-idx3-ubyte`` in it (the plain file before the
      .gz); labels come from the matching file beside it.
    - .npy: uint8 [N, S, S], [N, S, S, C] or [N, C, S, S]; .npz: likewise, named ``images`` and optionally ``labels``
      (or x_train and y_train, train_images and train_labels, arr_0 and arr_1).

    Grayscale files have one channel and all others three; a mixture becomes RGB. Transparency is composited over
    white, 16 bits are scaled to 8, the EXIF orientation is applied. Unreadable metadata is ignored, with one warning
    in the log.

    Args:
        source: what to load.
        resolution: resize to this edge length where the stored one differs, with Pillow's antialiased bicubic filter:
            no aliasing when it reduces; smooth, with no visible ringing, when it enlarges the 8x8 digits.

    Raises:
        DataError: one sentence with what was found and what is expected, for a path that is missing or cannot be read;
            no images; an image that is broken, not square, of another size than the rest, or past the limits in
            ``fastgan/data/limits.py``; a zip that is corrupt, encrypted, escapes its root or explodes; an IDX file
            with a wrong magic number or length; an array of another type or shape; labels that are not one integer for
            each image; a resolution that is not a positive integer, or is not 1 for ``"gaussians"``; more data than
            memory.
    """
    return open_dataset(source, resolution=resolution).load()


def open_dataset(source: str | os.PathLike[str] = "digits", *, resolution: int | None = None) -> LazyImages:
    """Opens what :func:`load_dataset` loads, without decoding it.

    A folder, a zip of images and a .npy file stay on the disk. Of image files the names, the labels and the header of
    each are read here; damage behind the header is found when the image is decoded. IDX files and .npz, which cannot be
    read in parts, are loaded as they are.

    Raises:
        DataError: as ``load_dataset``, for what can be seen before an image is decoded.
    """
    name = os.fspath(source)
    _check_resolution(source, resolution)
    # A Path is never a bundled set: Path("./digits") has lost its dot.
    kind, path = ("bundled", Path()) if source in BUNDLED else _recognize(name)
    files = labels = None
    if kind == "bundled":
        images, labels = BUNDLED[source]()
    elif kind == "folder":
        files = ImageFiles(Folder(path), path)
    elif kind == "zip":
        archive = SafeZip(path)
        if archive.holds_arrays:
            with archive:
                images, labels = load_npz(archive, path)
        else:
            files = ImageFiles(archive, path)
    elif kind == "idx":
        images, labels = load_idx(path)
    else:
        images = map_npy(path)
    if files is not None:
        count, channels, size, read, labels = len(files.names), files.channels, files.size, files.decode, files.labels
    else:
        count, channels, size, _ = images.shape
        read = images.__getitem__
    return LazyImages(name, read, (channels, resolution or size, resolution or size), labels, count)


def absolute_source(source: str) -> str:
    """The path of ``source`` made absolute, so that it holds in any folder; the name of a bundled set as it is."""
    # Of "" the absolute path would be the current folder.
    return source if source in BUNDLED or not source else os.path.abspath(source)


def _check_resolution(source: str | os.PathLike[str], resolution: int | None) -> None:
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1):
        raise DataError(f"The resolution is {resolution!r}; expected a positive integer.")
    if source == "gaussians" and resolution not in (None, 1):
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
    if start.startswith((GZIP_MAGIC, b"\0\0")) or "idx" in path.name.lower() or path.suffix.lower() == ".gz":
        return "idx", path
    if path.suffix.lower() == ".npy":
        return "npy", path
    found = f"begins with the bytes {start.hex(' ')}" if start else "is empty"
    raise DataError(f"{quoted(name)} {found}; expected {_SOURCES}.")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(NPY_MAGIC))

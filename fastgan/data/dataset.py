"""The one door through which images come in."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastgan.data.archive import SafeZip
from fastgan.data.arrays import NPY_MAGIC, load_npy, load_npz
from fastgan.data.digits import load_digits
from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.files import decode_files, list_folder, list_zip
from fastgan.data.gaussians import load_gaussians
from fastgan.data.idx import GZIP_MAGIC, TRAIN_IMAGES, load_idx
from fastgan.data.pixels import resize_images

_SOURCES = "'digits', 'gaussians', a folder of images, a zip of images, an IDX file (.gz or not), .npy or .npz"
_ZIP_MAGIC = b"PK"
BUNDLED = {"digits": load_digits, "gaussians": load_gaussians}


@dataclass(frozen=True)
class ImageDataset:
    """Square images of one size, all in memory.

    Attributes:
        name: "digits" or "gaussians", or the path as given.
        images: uint8 [N, C, S, S], C 1 (greyscale) or 3 (RGB), N at least 1; [N, 2, 1, 1] for points of the plane.
        labels: class numbers from 0, int64 [N], or None.
    """

    name: str
    images: Tensor
    labels: Tensor | None


def load_dataset(source: str | os.PathLike[str] = "digits", *, resolution: int | None = None) -> ImageDataset:
    """Load and check a whole data set, on the CPU.

    ``source`` is recognised by what it is, not by its suffix:

    - ``"digits"``: scikit-learn's 1,797 handwritten digits, 8x8 greyscale with labels; ``"./digits"`` is a path.
    - ``"gaussians"``: 10,000 points of the plane around eight centres, images of 1x1 with two channels, with labels.
    - A folder: every .png, .jpg, .jpeg, .webp, .bmp, .gif, .tif, .tiff, .ppm and .pgm below it, sorted by relative
      path. Hidden files and folders are passed over, and so are those that systems make (``@eaDir``, ``__MACOSX``,
      ``lost+found`` ...). Labels come from a ``dataset.json`` at its top, as in the zip.
    - A zip in the layout that NVIDIA's dataset_tool writes: image files, and ``dataset.json`` holding
      ``{"labels": [["00000/img00000000.png", 6], ...]}`` or ``{"labels": null}``.
    - An MNIST-style IDX file of images, or a folder with ``train-images-idx3-ubyte`` in it (the plain file before the
      .gz); labels come from the matching file beside it.
    - .npy: uint8 [N, S, S], [N, S, S, C] or [N, C, S, S]; .npz: likewise, named ``images`` and optionally ``labels``
      (or x_train and y_train, train_images and train_labels, arr_0 and arr_1).

    Greyscale files have one channel and all others three; a mixture becomes RGB. Transparency is composited over
    white, 16 bits are scaled to 8, the EXIF orientation is applied. Metadata that cannot be read is passed over, with
    one note in the log.

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
    name = os.fspath(source)
    check_resolution(source, resolution)
    # A Path is never a bundled set: Path("./digits") has lost its dot.
    images, labels = BUNDLED[source]() if source in BUNDLED else _load_path(name, resolution)
    if resolution is not None and images.shape[-1] != resolution:
        images = resize_images(images, resolution, quoted(name))
    return ImageDataset(
        name=name,
        images=torch.from_numpy(images),
        labels=None if labels is None else torch.from_numpy(labels),
    )


def absolute_source(source: str) -> str:
    """What means ``source`` from any folder: a path made absolute, or the name of a bundled set."""
    # Of "" the absolute path would be the current folder.
    return source if source in BUNDLED or not source else os.path.abspath(source)


def check_resolution(source: str | os.PathLike[str], resolution: int | None) -> None:
    """Refuses a resolution that the images of ``source`` cannot be resized to.

    Raises:
        DataError: one sentence.
    """
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1):
        raise DataError(f"The resolution is {resolution!r}; expected a positive integer.")
    if source == "gaussians" and resolution not in (None, 1):
        raise DataError(
            f"'gaussians' holds points of the plane, as images of 1x1, which cannot be resized to "
            f"{resolution}x{resolution}; expected resolution 1."
        )


def recognize(name: str) -> tuple[Literal["folder", "zip", "idx", "npy"], Path]:
    """What the source of that name is, and the file or folder to read; a zip is one of images or of arrays.

    Raises:
        DataError: as :func:`load_dataset` says, for what is nothing of these.
    """
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
    # The content decides; a suffix only where the content tells nothing, so that the error fits what was meant.
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


def _load_path(name: str, resolution: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    kind, path = recognize(name)
    if kind == "folder":
        files = list_folder(path)
        return decode_files(files, resolution), files.labels
    if kind == "zip":
        with SafeZip(path) as archive:
            if archive.holds_arrays:
                return load_npz(archive, path)
            files = list_zip(archive, path)
            return decode_files(files, resolution), files.labels
    return load_idx(path) if kind == "idx" else load_npy(path)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(NPY_MAGIC))

"""Opens data of any kind; :func:`load_dataset` lists the kinds."""

import os
import stat
from pathlib import Path
from typing import Any

from fastgan.data.archive import SafeZip
from fastgan.data.arrays import NPY_MAGIC, ArrayImages, load_npz, map_npy
from fastgan.data.bundled import BUNDLED
from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.files import Folder, ImageFiles
from fastgan.data.idx import GZIP_MAGIC, TRAIN_IMAGES, load_idx
from fastgan.data.images import ImageDataset, ImageStream, LazyImages, Reader
from fastgan.data.kinds import START_BYTES, TORCH, refusal
from fastgan.data.own import IterableImages, images_of, name_of

_SOURCES = (
    "'digits', 'photos', 'gaussians', a folder of images, a zip of images, an IDX file (.gz or not), .npy or .npz"
)
_ZIP_MAGIC = b"PK"


def load_dataset(
    source: Any = "digits", *, resolution: int | None = None, fit: str = "crop", skip_broken: bool = False
) -> ImageDataset:
    """Loads and checks a whole data set, on the CPU.

    The kind of a path is recognized by its content, not its suffix:

    - ``"digits"``: scikit-learn's 1,797 handwritten digits, 8x8 grayscale with labels; ``"./digits"`` is a path.
    - ``"photos"``: 2,754 crops of scikit-learn's two photographs, 64x64 in color, with the photograph as label.
    - ``"gaussians"``: 10,000 points of the plane around eight centers, images of 1x1 with two channels, with labels.
    - A folder: every .png, .jpg, .jpeg, .webp, .bmp, .gif, .tif, .tiff, .ppm and .pgm below it, sorted by relative
      path. Hidden files and folders are ignored, and so are those that systems create (``@eaDir``, ``__MACOSX``,
      ``lost+found`` ...). Labels come from a ``dataset.json`` at its top, as in the zip; without one, the top-level
      folders are the classes, sorted by name, if there are several and all images are in them.
    - A zip in the layout of NVIDIA's dataset_tool: image files, and ``dataset.json`` with
      ``{"labels": [["00000/img00000000.png", 6], ...]}`` or ``{"labels": null}``.
    - An MNIST-style IDX file of images, or a folder with ``train-images-idx3-ubyte`` in it (the plain file before the
      .gz); labels come from the matching file beside it.
    - .npy: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]; .npz: likewise, named ``images`` and optionally ``labels``
      (or x_train and y_train, train_images and train_labels, arr_0 and arr_1).
    - A map-style torch Dataset, an array or a tensor; see :mod:`fastgan.data.own` for the accepted items.

    Grayscale files have one channel and all others three; a mixture becomes RGB. Transparent images are composited over
    white, 16-bit values are scaled to 8, and the EXIF orientation is applied. Unreadable metadata is ignored, with one
    warning in the log.

    Args:
        source: the data.
        resolution: edge length to resize to, with Pillow's antialiased bicubic filter; by default the smallest of the
            images' shorter sides.
        fit: how to fit images that are not square: ``crop`` (resizes the shorter side and keeps the middle), ``pad``,
            ``stretch`` or ``refuse``, which also refuses images of several sizes.
        skip_broken: continue without images that cannot be read.

    Raises:
        DataError: one sentence with the finding and the expectation, for a path that is missing or cannot be read; no
            images; images that are broken or exceed the limits in ``fastgan/data/limits.py``, with their number; a zip
            that is corrupt, encrypted, escapes its root or explodes; an IDX file with a wrong magic number or length;
            an array of another type or shape; labels that are not one integer per image; a resolution that is not a
            positive integer, or not 1 for ``"gaussians"``; more data than memory.
    """
    return open_dataset(source, resolution=resolution, fit=fit, skip_broken=skip_broken).load()


def open_dataset(
    source: Any = "digits", *, resolution: int | None = None, fit: str = "crop", skip_broken: bool = False
) -> LazyImages:
    """Opens the sources of :func:`load_dataset` without decoding images.

    A folder, a zip of images and a .npy file stay on the disk. For image files, the names, labels and headers are read;
    damage after a header is found when the image is decoded. For a Dataset, up to 64 items are checked. IDX and .npz
    files, which cannot be read in parts, are loaded whole.

    Raises:
        DataError: as ``load_dataset``, for errors that are found without decoding.
    """
    opened = open_images(source, resolution=resolution, fit=fit, skip_broken=skip_broken)
    if isinstance(opened, ImageStream):
        raise DataError(
            f"{opened.name} has no length and no indices; expected a map-style Dataset, or a list of items."
        )
    return opened


def open_images(
    source: Any, *, resolution: int | None = None, fit: str = "crop", skip_broken: bool = False
) -> LazyImages | ImageStream:
    """Opens a source of :func:`open_dataset`, or an iterable Dataset."""
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1):
        raise DataError(f"The resolution is {resolution!r}; expected a positive integer.")
    if isinstance(source, str) and source == "gaussians" and resolution not in (None, 1):
        raise DataError(
            f"'gaussians' holds points of the plane, as images of 1x1, which cannot be resized to "
            f"{resolution}x{resolution}; expected resolution 1."
        )
    if isinstance(source, str) and source in BUNDLED:
        name, reader = source, ArrayImages(*BUNDLED[source](), source)
    elif isinstance(source, str | os.PathLike):
        # A Path is never a bundled set, since Path drops the dot of "./digits", and its name says so.
        name = os.fspath(source)
        if name in BUNDLED:
            name = os.path.join(".", name)
        reader = _open_path(name, skip_broken)
    else:
        name = name_of(source)
        reader = images_of(source, name)
    if isinstance(reader, IterableImages):
        return ImageStream(name, reader, resolution, fit)
    return LazyImages(name, reader, resolution, fit, skip_broken)


def absolute_source(source: str) -> str:
    """Makes the path ``source`` absolute, so that it is valid in any folder; the name of a bundled set is unchanged."""
    # The absolute path of "" would be the current folder.
    return source if source in BUNDLED or not source else os.path.abspath(source)


def _open_path(name: str, skip_broken: bool) -> Reader:
    """Opens a file or folder by its content."""
    path = Path(name)
    try:
        if not name:  # Path("") is the current folder.
            raise FileNotFoundError
        mode = path.stat().st_mode
        start = b""
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                start = file.read(START_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no file or folder {quoted(name)}; expected {_SOURCES}.") from None
    except (OSError, ValueError) as error:  # ValueError for a zero byte in the name.
        raise DataError(f"{quoted(name)} cannot be read ({reason(error)}); expected {_SOURCES}.") from error

    if stat.S_ISDIR(mode):
        idx_file = next((path / file for file in TRAIN_IMAGES if (path / file).is_file()), None)
        if idx_file is not None:
            return ArrayImages(*load_idx(idx_file), quoted(name))
        return ImageFiles(Folder(path), path, skip_broken=skip_broken)
    if not stat.S_ISREG(mode):
        raise DataError(f"{quoted(name)} is neither a regular file nor a folder; expected {_SOURCES}.")
    # The content decides; the suffix only if the content is not recognized, so that the error fits the intended kind.
    suffix = path.suffix.lower()
    if start.startswith(NPY_MAGIC):
        return ArrayImages(map_npy(path), None, quoted(name))
    if start.startswith(_ZIP_MAGIC) or suffix in (".zip", ".npz"):
        archive = SafeZip(path)
        if any(entry.endswith("/data.pkl") for entry in archive.names):
            raise DataError(f"{quoted(name)} is {TORCH}.")
        if any(entry.endswith(".npy") for entry in archive.names):
            return ArrayImages(*load_npz(archive, path), quoted(name))
        return ImageFiles(archive, path, skip_broken=skip_broken)
    if (sentence := refusal(quoted(name), start)) is not None:
        raise DataError(sentence + ".")
    if start.startswith((GZIP_MAGIC, b"\0\0")) or "idx" in path.name.lower() or suffix == ".gz":
        return ArrayImages(*load_idx(path), quoted(name))
    if suffix == ".npy":
        return ArrayImages(map_npy(path), None, quoted(name))
    found = f"begins with the bytes {start[:6].hex(' ')}" if start else "is empty"
    raise DataError(f"{quoted(name)} {found}; expected {_SOURCES}.")

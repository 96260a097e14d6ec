"""Reads MNIST-style IDX files, plain or gzipped.

The format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"): two zero bytes, a type (8 for
unsigned bytes), the number of dimensions, each dimension as a big-endian 32-bit integer, then the values.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastgan.data.errors import DataError, quoted, reason
from fastgan.data.limits import require_compression, require_memory

TRAIN_IMAGES = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
GZIP_MAGIC = b"\x1f\x8b"

# The magic numbers; the last byte is the number of dimensions.
_IMAGES, _LABELS = 0x0803, 0x0801
_NAMES = {_IMAGES: "images", _LABELS: "labels"}


def load_idx(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the images of an IDX file, uint8 [N, 1, H, W], and the labels of the matching file, int64 [N], if any.

    The matching file is in the same folder; its name has "labels" for "images" and "idx1" for "idx3", gzipped or not.
    """
    images = _read(path, _IMAGES)
    count, height, width = images.shape
    if images.size == 0:
        raise DataError(f"{quoted(path)} holds {count} images of {width}x{height}; expected at least one with pixels.")
    labels_path = _labels_path(path)
    if labels_path is None:
        return images[:, None], None
    labels = _read(labels_path, _LABELS)
    if len(labels) != count:
        raise DataError(
            f"{quoted(labels_path)} holds {len(labels):,} labels for the {count:,} images of {quoted(path)}; "
            "expected one for each."
        )
    return images[:, None], labels.astype(np.int64)


def _labels_path(path: Path) -> Path | None:
    if "images" not in path.name:
        return None
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    other = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    return next((path.with_name(option) for option in (name, other) if path.with_name(option).exists()), None)


def _read(path: Path, magic: int) -> np.ndarray:
    try:
        with path.open("rb") as file:
            gzipped = file.peek(2).startswith(GZIP_MAGIC)
            stream = gzip.GzipFile(fileobj=file) if gzipped else file
            shape = _read_header(stream, path, magic)
            # With Python's integers, since the product of three 32-bit dimensions may exceed 64 bits.
            promised = math.prod(shape)
            what = f"{quoted(path)}, whose header promises {' x '.join(map(str, shape))} values,"
            require_memory(promised, what)
            if gzipped:
                require_compression(path, promised)
            elif path.stat().st_size != file.tell() + promised:
                raise DataError(f"{what} has {path.stat().st_size:,} bytes; expected {file.tell() + promised:,}.")
            values = stream.read(promised + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{quoted(path)} cannot be read ({reason(error)}); expected a whole IDX file.") from error
    if len(values) != promised:
        found = "more" if len(values) > promised else f"{len(values):,}"
        raise DataError(f"{what} has {found}; expected as many as promised.")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_header(stream: BinaryIO | gzip.GzipFile, path: Path, magic: int) -> tuple[int, ...]:
    dimensions = magic & 0xFF
    header = stream.read(4 + 4 * dimensions)
    found = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and found != magic:
        meaning = f" ({_NAMES[found]})" if found in _NAMES else ""
        raise DataError(
            f"{quoted(path)} has the IDX magic number {found}{meaning}; expected {magic} ({_NAMES[magic]} in unsigned "
            "bytes)."
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{quoted(path)} ends within its IDX header; expected {4 + 4 * dimensions} bytes of it.")
    return struct.unpack(f">{dimensions}I", header[4:])

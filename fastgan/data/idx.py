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
from fastgan.data.limits import MAX_COMPRESSION_RATIO, explodes, require_memory

TRAIN_IMAGES = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
GZIP_MAGIC = b"\x1f\x8b"

_IMAGES = (0x0803, 3, "images")
_LABELS = (0x0801, 1, "labels")
_CHUNK_BYTES = 2**20


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


def _read(path: Path, kind: tuple[int, int, str]) -> np.ndarray:
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == GZIP_MAGIC
            file.seek(0)
            size = path.stat().st_size
            if not gzipped:
                return _read_values(file, path, kind, size, gzipped)
            with gzip.GzipFile(fileobj=file) as stream:
                return _read_values(stream, path, kind, size, gzipped)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{quoted(path)} cannot be read ({reason(error)}); expected a whole IDX file.") from error


def _read_values(
    stream: BinaryIO | gzip.GzipFile, path: Path, kind: tuple[int, int, str], size: int, gzipped: bool
) -> np.ndarray:
    shape = _read_header(stream, path, kind)
    header_bytes = 4 + 4 * len(shape)
    # With Python's integers, since the product of three 32-bit dimensions may exceed 64 bits.
    promised = math.prod(shape)
    dimensions = " x ".join(str(extent) for extent in shape)
    if not gzipped and size != header_bytes + promised:
        raise DataError(
            f"{quoted(path)} has {size:,} bytes; expected {header_bytes + promised:,} for the {dimensions} values that "
            "its header promises."
        )
    require_memory(promised, f"{quoted(path)}, whose header promises {dimensions} values,")
    if gzipped and explodes(size, promised):
        raise DataError(
            f"{quoted(path)} would explode from {size:,} to {promised:,} bytes; expected a compression of at most "
            f"{MAX_COMPRESSION_RATIO}:1, which real images do not reach."
        )
    # Read in pieces, so that memory grows with the data and not with the size in the header.
    values = bytearray()
    while len(values) < promised:
        piece = stream.read(min(_CHUNK_BYTES, promised - len(values)))
        if not piece:
            raise DataError(
                f"{quoted(path)} ends after {len(values):,} values; expected the {dimensions} that its header promises."
            )
        values += piece
    if stream.read(1):
        raise DataError(f"{quoted(path)} continues after the {dimensions} values that its header promises.")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_header(stream: BinaryIO | gzip.GzipFile, path: Path, kind: tuple[int, int, str]) -> tuple[int, ...]:
    magic, dimensions, noun = kind
    header = stream.read(4 + 4 * dimensions)
    found = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and found != magic:
        meaning = {_IMAGES[0]: " (images)", _LABELS[0]: " (labels)"}.get(found, "")
        raise DataError(
            f"{quoted(path)} has the IDX magic number {found}{meaning}; expected {magic} ({noun} in unsigned bytes)."
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{quoted(path)} ends within its IDX header; expected {4 + 4 * dimensions} bytes of it.")
    return struct.unpack(f">{dimensions}I", header[4:])

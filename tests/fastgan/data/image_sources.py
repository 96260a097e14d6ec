"""Builders of small data sets in every accepted layout."""

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from fastgan.data.decode import decode_image
from fastgan.data.pixels import to_array


def encode(pixels: np.ndarray, suffix: str = "png", **options) -> bytes:
    """uint8 [S, S] or [S, S, 3] as an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    return stream.getvalue()


def decoded(data: bytes, where: str, *options) -> np.ndarray:
    """The pixels of an image file, uint8 [C, H, W]."""
    return to_array(decode_image(data, where, *options))


def idx_bytes(values: np.ndarray, magic: int | None = None) -> bytes:
    magic = 0x0800 + values.ndim if magic is None else magic
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path, images: np.ndarray, labels: np.ndarray | None = None, *, gz: bool = False, part: str = "train"
) -> Path:
    """The files of MNIST; returns the path of the images."""
    folder.mkdir(exist_ok=True)
    paths = []
    for noun, values in (("images-idx3", images), ("labels-idx1", labels)):
        if values is not None:
            paths.append(folder / f"{part}-{noun}-ubyte{'.gz' if gz else ''}")
            paths[-1].write_bytes(gzip.compress(idx_bytes(values)) if gz else idx_bytes(values))
    return paths[0]


def write_stylegan_zip(path: Path, images: np.ndarray, labels: list[int] | None = None) -> Path:
    """uint8 [N, S, S] or [N, S, S, 3] as dataset_tool lays them out: stored PNGs in sub-folders, dataset.json last."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        names = [f"{index // 2:05d}/img{index:08d}.png" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            archive.writestr(name, encode(image))
        pairs = None if labels is None else [list(pair) for pair in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return path

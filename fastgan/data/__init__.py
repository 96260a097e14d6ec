"""Images in: the bundled digits, folders, zips, IDX files and numpy arrays, checked before training starts."""

from fastgan.data.dataset import ImageDataset, load_dataset
from fastgan.data.errors import DataError
from fastgan.data.pixels import normalize, to_uint8

__all__ = ["DataError", "ImageDataset", "load_dataset", "normalize", "to_uint8"]

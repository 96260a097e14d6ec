"""Loads images from bundled data, paths, torch Datasets, arrays and tensors, checked before training starts."""

from fastgan.data.augment import diff_augment, random_flip
from fastgan.data.dataset import absolute_source, load_dataset, open_dataset
from fastgan.data.errors import DataError
from fastgan.data.images import ImageDataset, LazyImages
from fastgan.data.pixels import normalize, to_uint8
from fastgan.data.sources import ImageSource, open_source

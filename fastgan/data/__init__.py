"""Images in: the bundled digits, folders, zips, IDX files and numpy arrays, checked before training starts."""

from fastgan.data.augment import diff_augment, random_flip
from fastgan.data.dataset import ImageDataset, LazyImages, absolute_source, load_dataset, open_dataset
from fastgan.data.errors import DataError
from fastgan.data.pixels import normalize, to_uint8
from fastgan.data.sources import ImageSource, open_source

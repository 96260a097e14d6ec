"""Data sets of which one image at a time is read."""

import os

from torch import Tensor
from torch.utils.data import Dataset


class LazyImages(Dataset):
    name: str
    image_shape: tuple[int, int, int]
    labels: Tensor | None

    @property
    def num_bytes(self) -> int: ...


def open_dataset(source: str | os.PathLike[str], *, resolution: int | None = None) -> LazyImages:
    raise NotImplementedError

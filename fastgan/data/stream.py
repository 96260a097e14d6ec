"""Batches read by worker processes while the device computes."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fastgan.data.lazy import LazyImages

# Each of a worker's batches waits in memory that the processes share, of which containers often have little.
_BATCHES_AHEAD = 2
_MOST_WORKERS = 8


def default_workers(world_size: int = 1) -> int:
    """How many worker processes each rank has: all cores but the one that drives the device, from 1 to 8."""
    cores = len(os.sched_getaffinity(0))
    return min(max(cores // world_size - 1, 1), _MOST_WORKERS)


def indices_of_update(num_images: int, size: int, *, seed: int, update: int) -> np.ndarray:
    """The images of an update's whole batch, int64 [size]: drawn with replacement, from ``seed`` and ``update`` alone.

    numpy keeps the streams of SeedSequence and PCG64 as they are; torch's CPU generator takes 32 bits of a seed, in
    which some of a million updates would collide.
    """
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(update,))))
    return random.integers(num_images, size=size)


def part_of_rank(size: int, rank: int, world_size: int) -> slice:
    """A rank's part of a batch of ``size``: contiguous, and all parts in the order of ranks make up the batch.

    Where ``world_size`` does not divide ``size``, parts differ by one.
    """
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


class StreamedImages:
    """A source that reads each batch from files; see :class:`fastgan.data.sources.ImageSource`.

    Worker processes decode batches ahead. On a GPU they arrive in pinned memory, and the next one is copied on a stream
    of its own while the last is in use. The batch of an update follows from ``seed`` and its number alone, whatever was
    read ahead and by how many workers: a run that goes on at any update gets the batches that it would have got.

    Workers are forked, so that they share what the data set keeps in memory; they leave the device alone. They pass
    over SIGINT and SIGTERM, on which a run saves its state and then ends them, and end themselves within seconds of
    the death of their parent.

    Args:
        dataset: what to read.
        seed: of the order.
        batch_size_of: images in the whole batch of an update, by its number.
        num_workers: processes that read; 0 to read in this one when a batch is asked for.
        device: where batches are wanted.
        rank, world_size: which part of each batch to read.
    """

    capturable = False

    def __init__(
        self,
        dataset: LazyImages,
        *,
        seed: int,
        batch_size_of: Callable[[int], int],
        num_workers: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.name, self.image_shape, self.labels = dataset.name, dataset.image_shape, dataset.labels
        self._dataset = dataset
        self._seed = seed
        self._batch_size_of = batch_size_of
        self._num_workers = num_workers
        self._device = device
        self._rank, self._world_size = rank, world_size
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._batches: Iterator | None = None
        self._next_update = 0

    def __len__(self) -> int:
        return len(self._dataset)

    def next_batch(self, update: int, size: int, random: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """As in :class:`fastgan.data.sources.ImageSource`.

        Raises:
            ValueError: ``size`` is not what ``batch_size_of`` says.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

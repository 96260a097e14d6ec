"""Batches read by worker processes while the device computes."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fastgan.data.errors import DataError
from fastgan.data.images import ImageStream, LazyImages
from fastgan.random_state import seed_generators
from fastgan.seeds import Stream, seed_of

# Few, since waiting batches are in shared memory, of which containers often have little.
_BATCHES_AHEAD = 2
_MOST_WORKERS = 8

_Batch = tuple[Tensor, Tensor | None]


def default_workers(world_size: int = 1) -> int:
    """Number of worker processes per rank: all cores but the one that drives the device, from 1 to 8."""
    cores = len(os.sched_getaffinity(0))
    return min(max(cores // world_size - 1, 1), _MOST_WORKERS)


def indices_of_update(num_images: int, size: int, *, seed: int, update: int) -> np.ndarray:
    """Indices of the images of an update's whole batch, int64 [size], drawn with replacement from ``seed`` and
    ``update`` only.

    numpy guarantees that the streams of SeedSequence and PCG64 do not change. torch's CPU generator uses 32 bits of a
    seed, so some of a million updates would have the same one.
    """
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(update,))))
    return random.integers(num_images, size=size)


def part_of_rank(size: int, rank: int, world_size: int) -> slice:
    """A rank's contiguous part of a batch of ``size``; the parts in the order of ranks make up the batch.

    If ``world_size`` does not divide ``size``, the parts' sizes differ by one.
    """
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


class StreamedImages:
    """A source that reads each batch from files or a Dataset; see :class:`fastgan.data.sources.ImageSource`.

    Worker processes decode batches ahead. For a GPU, batches arrive in pinned memory, and the next one is copied on a
    separate stream while the last is in use. The batch of an update depends only on ``seed`` and the index of the
    update, not on the number of workers or the batches read ahead: a run resumed at any update gets the batches of an
    uninterrupted run. This includes a Dataset's random transforms, if they draw from the global generators of torch,
    numpy or Python, which are seeded for each batch.

    Workers are forked, so that they share the data set's memory; they do not use the device. They ignore SIGINT, and
    SIGTERM from processes other than their parent: on these signals a run saves its state and then ends the workers.
    Workers exit within seconds of the death of their parent.

    The arguments are those of :func:`fastgan.data.sources.open_source`; with ``num_workers`` 0 this process reads, in
    ``next_batch``.
    """

    capturable = False
    resume_note: str | None = None

    def __init__(
        self,
        dataset: LazyImages | ImageStream,
        *,
        seed: int,
        batch_size_of: Callable[[int], int],
        num_workers: int,
        device: torch.device,
        with_labels: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.name, self.image_shape, self.class_names = dataset.name, dataset.image_shape, dataset.class_names
        self.labels = dataset.labels if with_labels else None
        self.notes = dataset.notes
        self._dataset = dataset
        self._seed = seed
        self._batch_size_of = batch_size_of
        self._num_workers = num_workers
        self._device = device
        self._rank, self._world_size = rank, world_size
        self._batches: Iterator[_Batch | DataError] | None = None
        self._next_update = 0

    def __len__(self) -> int:
        return len(self._dataset)

    def next_batch(self, update: int, size: int, random: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """As in :class:`fastgan.data.sources.ImageSource`."""
        if size != self._batch_size_of(update):
            raise ValueError(f"the batch size of update {update} is {size}; expected {self._batch_size_of(update)}")
        if self._batches is None or update != self._next_update:
            self.close()
            self._batches = self._on_device(self._read_from(update))
        batch = next(self._batches)
        if isinstance(batch, DataError):
            self.close()
            raise batch
        self._next_update = update + 1
        return batch

    def close(self) -> None:
        """Ends the worker processes; another batch starts new ones."""
        # torch ends the workers when their iterator is deleted, so it must have no other reference: if it is garbage-
        # collected together with its queues, workers that wait for the next batch end only after 5 seconds.
        self._batches = None

    def _read_from(self, first_update: int) -> Iterator[_Batch | DataError]:
        in_processes: dict[str, Any] = {}
        if self._num_workers:
            in_processes = {"multiprocessing_context": "fork", "prefetch_factor": _BATCHES_AHEAD}
        loader = DataLoader(
            _Share(partial(self._share, first_update), self.labels is not None),
            batch_size=None,  # An item is already a batch.
            num_workers=self._num_workers,
            worker_init_fn=partial(_obey_the_parent, os.getpid()),
            pin_memory=self._device.type == "cuda",
            # By default torch's global generator seeds the workers, so that starting them would change its state.
            generator=torch.Generator(),
            **in_processes,
        )
        # The device on which the pinning thread works.
        with _signals_blocked(), torch.cuda.device(self._device if self._device.type == "cuda" else -1):
            return iter(loader)

    def _share(self, first_update: int, worker: int, num_workers: int) -> Iterator[tuple[Tensor, list[int | None]]]:
        """Every ``num_workers``-th batch of this rank, from the one at ``first_update + worker`` on."""
        for update in itertools.count(first_update + worker, num_workers):
            size = self._batch_size_of(update)
            indices = indices_of_update(len(self), size, seed=self._seed, update=update)
            part = indices[part_of_rank(size, self._rank, self._world_size)].tolist()
            yield self._dataset.batch(part, seed_of(self._seed, Stream.TRANSFORMS, update, self._rank))

    def _on_device(self, batches: Iterator[_Batch | DataError]) -> Iterator[_Batch | DataError]:
        if self._device.type != "cuda":
            yield from batches
            return
        copies = torch.cuda.Stream(self._device)
        copied = (_copy(batch, self._device, copies) for batch in batches)
        # Each batch is passed on after the copy of the next one has started. An error is the last.
        for ready, _ in itertools.pairwise(itertools.chain(copied, [None])):
            yield _received(*ready)


class StreamedItems(StreamedImages):
    """A source of an iterable Dataset, in the dataset's order; see :class:`StreamedImages`.

    Each worker process iterates over the dataset endlessly and makes whole batches. A dataset must divide itself among
    workers, by ``torch.utils.data.get_worker_info``, and among ranks; so there is one worker unless more are set, and
    always at least one.
    """

    resume_note = (
        "The resumed run starts a new pass over the iterable dataset, so its real images differ from those of an "
        "uninterrupted run; a map-style dataset has the same ones."
    )

    def _share(self, first_update: int, worker: int, num_workers: int) -> Iterator[tuple[Tensor, list[int | None]]]:
        seed_generators(seed_of(self._seed, Stream.TRANSFORMS, first_update, self._rank, worker))
        whole = map(self._batch_size_of, itertools.count(first_update + worker, num_workers))
        return self._dataset.batches(len(range(n)[part_of_rank(n, self._rank, self._world_size)]) for n in whole)


class _Share(IterableDataset):
    """The batches that one worker reads.

    A DataError is yielded as the last, not raised, because torch would put a traceback into its message.
    """

    def __init__(
        self, batches_of_worker: Callable[[int, int], Iterator[tuple[Tensor, list[int | None]]]], with_labels: bool
    ) -> None:
        self._batches_of_worker, self._with_labels = batches_of_worker, with_labels

    def __iter__(self) -> Iterator[_Batch | DataError]:
        worker = get_worker_info()
        batches = self._batches_of_worker(*((worker.id, worker.num_workers) if worker else (0, 1)))
        try:
            for images, labels in batches:
                yield images, torch.tensor(labels) if self._with_labels else None
        except DataError as error:
            yield error


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Permanently blocks SIGINT and SIGTERM in processes forked inside the context.

    Ctrl-C reaches all processes of a terminal, and a scheduler's SIGTERM often all processes of a job.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_the_parent(parent: int, worker: int) -> None:
    threading.Thread(target=_exit_with_the_parent, args=(parent,), daemon=True).start()


def _exit_with_the_parent(parent: int) -> None:
    # When the parent ends, it sends SIGTERM to its workers and waits for them. A killed parent sends no signal; torch's
    # workers check for its death too, but not if it died before they started.
    while os.getppid() == parent:
        signalled = signal.sigtimedwait({signal.SIGTERM}, 1)
        if signalled is not None and signalled.si_pid == parent:
            break
    os._exit(0)


def _copy(
    batch: _Batch | DataError, device: torch.device, copies: torch.cuda.Stream
) -> tuple[_Batch | DataError, torch.cuda.Event]:
    """Starts the copy to the device, which is complete once the event has occurred."""
    if not isinstance(batch, DataError):
        with torch.cuda.stream(copies):
            batch = tuple(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in batch)
    return batch, copies.record_event()


def _received(batch: _Batch | DataError, copied: torch.cuda.Event) -> _Batch | DataError:
    """The batch for use on the current stream; its memory is not reused before that stream has finished with it."""
    if not isinstance(batch, DataError):
        stream = torch.cuda.current_stream(batch[0].device)
        stream.wait_event(copied)
        for tensor in batch:
            if tensor is not None:
                tensor.record_stream(stream)
    return batch

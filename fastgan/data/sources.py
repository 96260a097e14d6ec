"""Batches of real images: resident in device memory, or streamed by worker processes that read files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan.data.dataset import open_images
from fastgan.data.errors import DataError, quoted
from fastgan.data.images import ImageStream
from fastgan.data.stream import StreamedImages, StreamedItems, default_workers, part_of_rank

# Share of the free memory that images may use. The other memory that a step needs is not known before the step runs:
# three quarters are left for networks, optimizers and activations. 20 GiB of an 80 GiB card hold 100,000 RGB images of
# 256x256.
DEVICE_SHARE = 1 / 4


class ImageSource(Protocol):
    """Batches of real images, one per discriminator update. A source has no state to save.

    Attributes:
        name: name of the data, as given.
        image_shape: shape of an image, [C, S, S].
        labels: class indices of all images, int64 [N] on the CPU, or None; one per class for an iterable Dataset.
        class_names: names of the classes, or None.
        note: whether the images are resident or streamed, and why; one sentence.
        notes: sentences on images that are fitted or left out.
        resume_note: a sentence on how a resumed run differs from an uninterrupted one, or None.
        capturable: whether :meth:`next_batch` runs on the device only, so that a CUDA graph can capture it. Otherwise
            it is called outside the graph, and its batch is copied in.
    """

    name: str
    image_shape: tuple[int, int, int]
    labels: Tensor | None
    class_names: tuple[str, ...] | None
    note: str
    notes: list[str]
    resume_note: str | None
    capturable: bool

    def __len__(self) -> int:
        """The number of images, N.

        Raises:
            TypeError: for an iterable Dataset, which has no length.
        """
        ...

    def next_batch(self, update: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """This rank's part of a batch drawn with replacement; the parts of all ranks make up the whole batch.

        Args:
            update: index of the discriminator update, from 0. A streamed source draws from its seed and this index; it
                is fast if each call's index is one more than that of the call before.
            size: size of the whole batch.
            random: generator on the device. A resident source draws the whole batch from it on every rank, so ranks
                whose generators have the same state get parts of the same batch. A streamed source ignores it.

        Returns:
            uint8 [n, C, S, S] on the device, and their labels, int64 [n], or None. ``n`` is the size of
            :func:`fastgan.data.stream.part_of_rank`. The source does not write to them again.

        Raises:
            DataError: for a broken image, found when it is read.
        """
        ...

    def close(self) -> None:
        """Ends worker processes, if there are any."""
        ...


class ResidentImages:
    """A source that keeps all images on the device as bytes; see :class:`ImageSource`.

    ``images`` are uint8 [N, C, S, S] and ``labels`` int64 [N], or None. The other arguments are those of
    :func:`open_source`.
    """

    capturable = True
    class_names: tuple[str, ...] | None = None
    resume_note = None

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        device: torch.device,
        *,
        name: str = "images",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.name = name
        self.labels = labels
        self.image_shape = tuple(images.shape[1:])
        self.note = f"The images are kept on {device}"
        self.notes: list[str] = []
        self._images = images.to(device)
        self._labels = None if labels is None else labels.to(device)
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images at ``indices``, int64 [n] on the device, and their labels."""
        return self._images[indices], None if self._labels is None else self._labels[indices]

    def next_batch(self, update: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        chosen = torch.randint(len(self), (size,), device=self._images.device, generator=random)
        return self.batch(chosen[part_of_rank(size, self._rank, self._world_size)])

    def close(self) -> None:
        pass


def open_source(
    data: Any,
    *,
    resolution: int | None,
    device: torch.device,
    seed: int,
    batch_size_of: Callable[[int], int],
    with_labels: bool = False,
    on_device: str = "auto",
    workers: int = 0,
    fit: str = "crop",
    skip_broken: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> ImageSource:
    """Opens the source of a run: resident if the images fit on the device, else streamed.

    Args:
        data: data as for :func:`fastgan.data.load_dataset`, or an iterable Dataset.
        resolution: edge length of the fitted images; by default the smallest of their shorter sides.
        device: device of the batches.
        seed: seed of the order of a streamed source, from 0.
        batch_size_of: maps the index of an update to the size of its whole batch, for a streamed source.
        with_labels: whether batches include labels, if the data has them.
        on_device: "yes" for resident, "no" for streamed, "auto" for resident if the images fit. A map-style Dataset is
            resident only with "yes", since its transforms may be random; an iterable one is never resident.
        workers: processes that read a streamed source; 0 for :func:`fastgan.data.stream.default_workers`.
        fit, skip_broken: as in :func:`fastgan.data.load_dataset`.
        rank, world_size: rank and world size, which select this process's part of each batch.

    Raises:
        DataError: as ``load_dataset``, and with "yes" for images larger than the free memory of the device.
    """
    dataset = open_images(data, resolution=resolution, fit=fit, skip_broken=skip_broken)
    rank_options = {"rank": rank, "world_size": world_size}
    if isinstance(dataset, ImageStream):
        kind, workers, why = StreamedItems, workers or 1, f"{dataset.name} is iterable"
    else:
        kind, needed, free = StreamedImages, f"the images take {_size(dataset.num_bytes)}", free_memory(device)
        if on_device == "yes" and dataset.num_bytes > free:
            raise DataError(
                f"{quoted(dataset.name)} does not fit on {device}: {needed}, and {_size(free)} are free; expected "
                "fewer or smaller images, or data_on_device 'no'."
            )
        fitting = not dataset.is_random and fits(dataset.num_bytes, device)
        if on_device == "yes" or (on_device == "auto" and fitting):
            whole = dataset.load()
            labels = whole.labels if with_labels else None
            resident = ResidentImages(whole.images, labels, device, name=dataset.name, **rank_options)
            resident.note = f"The images are kept on {device}: {needed}, and {_size(free)} were free"
            resident.class_names, resident.notes = dataset.class_names, dataset.notes
            return resident
        why = f"{needed}, more than a quarter of the {_size(free)} free"
        if dataset.is_random:
            why = "transforms of a Dataset may be random; data_on_device 'yes' keeps its images"
        if on_device == "no":
            why = "data_on_device is 'no'"
    workers = workers or default_workers(world_size)
    streamed = kind(
        dataset,
        seed=seed,
        batch_size_of=batch_size_of,
        num_workers=workers,
        device=device,
        with_labels=with_labels,
        **rank_options,
    )
    streamed.note = f"The images are read by {workers} worker process{'es' * (workers > 1)}: {why}"
    return streamed


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether images fit in ``DEVICE_SHARE`` of the free memory of the device, and of the host, which decodes them."""
    return num_bytes <= DEVICE_SHARE * min(free_memory(device), free_memory(torch.device("cpu")))


def free_memory(device: torch.device) -> int:
    """Free memory of the device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    # MemAvailable includes memory that the kernel can free, such as cached files.
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no line MemAvailable; expected Linux 3.14 or newer.")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"

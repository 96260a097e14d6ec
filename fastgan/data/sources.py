"""Batches of real images: resident in the device's memory, or streamed by worker processes that read files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan.data.dataset import open_images
from fastgan.data.errors import DataError, quoted
from fastgan.data.images import ImageStream
from fastgan.data.stream import StreamedImages, StreamedItems, default_workers, part_of_rank

# What a step needs besides the images is not known before it has run. With a quarter for them, they take at most a
# third of what is left for networks, optimizers and activations. 20 GiB of an 80 GiB card hold 100,000 images of
# 256x256 in RGB.
DEVICE_SHARE = 1 / 4


class ImageSource(Protocol):
    """Batches of real images, one for each discriminator update. A source has no state to save.

    Attributes:
        name: of the data, as given.
        image_shape: of one image, [C, S, S].
        labels: class numbers of all images, int64 [N] on the CPU, or None; of an iterable Dataset one of each class.
        class_names: of the classes, where the data name them, or None.
        note: whether the images are resident or streamed, and why; one sentence.
        notes: sentences about images that are fitted or left out.
        resume_note: what is not exact in a resumed run, one sentence, or None.
        capturable: whether :meth:`next_batch` runs on the device only, so that a CUDA graph can hold it. A source that
            is not capturable is called outside of the graph, and its batch is copied in.
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
            TypeError: of an iterable Dataset, which has none.
        """
        ...

    def next_batch(self, update: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """This rank's part of a batch drawn with replacement; the parts of all ranks make up the whole batch.

        Args:
            update: the number of the discriminator update, from 0. A streamed source draws from its seed and this
                number; it is fast where each call's number is one more than the last call's.
            size: images in the whole batch.
            random: on the device. A resident source draws the whole batch from it on every rank, so ranks whose
                generators have the same state get parts of the same batch. A streamed source ignores it.

        Returns:
            uint8 [n, C, S, S] on the device, and their labels, int64 [n], or None. ``n`` is the size of
            :func:`fastgan.data.stream.part_of_rank`. The source does not write to them again.

        Raises:
            DataError: an image that is broken, found when it is read.
        """
        ...

    def close(self) -> None:
        """Ends worker processes, if there are any."""
        ...


class ResidentImages:
    """A source that keeps all images on the device as bytes; see :class:`ImageSource`.

    Args:
        images: uint8 [N, C, S, S].
        labels: int64 [N], or None.
        device: where they are kept and drawn.
        name: of the data.
        rank, world_size: of this process; they select its part of each batch.
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
    """The source of a run: resident where the images fit on the device, else streamed.

    Args:
        data: what :func:`fastgan.data.load_dataset` takes, or an iterable Dataset.
        resolution: edge length that the images are fitted to; by default the least of their shorter sides.
        device: where batches are wanted.
        seed, batch_size_of: of a streamed source; see :class:`fastgan.data.stream.StreamedImages`.
        with_labels: whether batches carry labels where the data has them.
        on_device: "yes" for resident, "no" for streamed, "auto" for what fits. A map-style Dataset is resident only for
            "yes", as its transforms may be random; an iterable one never.
        workers: processes that read a streamed source; 0 for :func:`fastgan.data.stream.default_workers`.
        fit, skip_broken: as in :func:`fastgan.data.load_dataset`.
        rank, world_size: of this process; they select its part of each batch.

    Raises:
        DataError: as ``load_dataset``; or images for "yes" that are larger than the free memory of the device.
    """
    dataset = open_images(data, resolution=resolution, fit=fit, skip_broken=skip_broken)
    kind = StreamedItems
    if isinstance(dataset, ImageStream):
        workers, why = workers or 1, f"{dataset.name} is iterable"
    else:
        kind = StreamedImages
        needed = f"the images take {_size(dataset.num_bytes)}"
        free = free_memory(device)
        if on_device == "yes" and dataset.num_bytes > free:
            raise DataError(
                f"{quoted(dataset.name)} is to be kept on {device}, and {needed}; {_size(free)} are free there, so "
                "expected fewer or smaller images, or data_on_device 'no'."
            )
        fitting = not dataset.is_random and fits(dataset.num_bytes, device)
        if on_device == "yes" or (on_device == "auto" and fitting):
            whole = dataset.load()
            labels = whole.labels if with_labels else None
            resident = ResidentImages(whole.images, labels, device, name=dataset.name, rank=rank, world_size=world_size)
            resident.note = f"The images are kept on {device}: {needed}, and {_size(free)} were free"
            resident.class_names, resident.notes = dataset.class_names, dataset.notes
            return resident
        why = f"{needed}, more than a quarter of the {_size(free)} free"
        if dataset.is_random:
            why = "transforms of a Dataset may be random; data_on_device 'yes' keeps them"
        if on_device == "no":
            why = "data_on_device is 'no'"
    num_workers = workers or default_workers(world_size)
    streamed = kind(
        dataset,
        seed=seed,
        batch_size_of=batch_size_of,
        num_workers=num_workers,
        device=device,
        with_labels=with_labels,
        rank=rank,
        world_size=world_size,
    )
    streamed.note = f"The images are read by {num_workers} worker process{'es' * (num_workers > 1)}: {why}"
    return streamed


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether images fit in ``DEVICE_SHARE`` of the free memory of the device and of the host, which decodes them."""
    return num_bytes <= DEVICE_SHARE * min(free_memory(device), free_memory(torch.device("cpu")))


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    # MemAvailable includes memory that the kernel can free, such as cached files.
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no line MemAvailable; expected Linux 3.14 or newer.")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"

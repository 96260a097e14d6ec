"""The processes that share a run: one, or as many as torchrun has started, on this machine or on several.

Every rank draws the numbers of the whole batch, from the same seed, and takes its part. So what is trained does not
depend on how many there are, as far as sums are the same in another order and no layer looks at a whole batch.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastgan.nn.spectral_norm import SpectralNorm
from fastgan.training.config import SettingsError

T = TypeVar("T")


class Ranks:
    """This process among those that share a run. Made by itself, it is the only one.

    The hosts need not share a disk: only the first rank reads and writes the run's folder, in :meth:`of_first` and
    :meth:`by_first`. What another rank sees there may be old, half written or nothing.

    Attributes:
        rank: from 0; the one that writes files and tells how it goes is 0.
        world_size: how many there are.
    """

    def __init__(self) -> None:
        self.rank = 0
        self.world_size = 1
        self._of_devices: dist.ProcessGroup | None = None

    @classmethod
    def of_environment(cls) -> Self:
        """Joins the others that torchrun has started, or is the only one where it has not.

        Hosts talk by gloo, without a GPU: what they agree on must not wait for it, and comes before it is known which.
        """
        ranks = cls()
        if was_launched():
            dist.init_process_group("gloo")
            ranks.rank, ranks.world_size = dist.get_rank(), dist.get_world_size()
        return ranks

    def use(self, device: torch.device) -> None:
        """Makes ready for tensors on the device of this rank; on CUDA they travel by NCCL. All ranks must call it."""
        if self.world_size > 1 and device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL keeps what it needs
            self._of_devices = dist.new_group(backend="nccl")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and tells how it goes."""
        return self.rank == 0

    def part(self, whole: Tensor) -> Tensor:
        """The rows of a whole batch that are this rank's."""
        return whole if self.world_size == 1 else whole.chunk(self.world_size)[self.rank]

    def check_batch_size(self, name: str, size: int, accumulate: int) -> None:
        """Refuses a batch that cannot be divided into equal parts of two samples or more.

        Raises:
            SettingsError: one sentence.
        """
        parts = self.world_size * accumulate
        if size % parts or size // parts < 2:
            raise SettingsError(
                f"{name} is {size}, with {self.world_size} ranks and accumulate {accumulate}; expected a multiple of "
                f"{parts}, and at least 2 images in each part"
            )

    def parallel(self, module: nn.Module, *, some_unused: bool) -> nn.Module:
        """A module whose gradients are means over all ranks; the module itself where there is one rank.

        Args:
            module: on the device of this rank; all ranks take over the weights of the first.
            some_unused: whether a backward pass may leave parameters out.
        """
        if self.world_size == 1:
            return module
        # Buffers that are written between two forward passes of one backward pass cannot be differentiated.
        return DistributedDataParallel(
            module, broadcast_buffers=False, find_unused_parameters=some_unused, process_group=self._of_devices
        )

    def normalise_over_all(self, network: nn.Module) -> nn.Module:
        """Batch normalisation over the whole batch, where torch has it: on CUDA.

        On the CPU each rank normalises over its own part.
        """
        if self.world_size == 1 or not next(network.parameters()).is_cuda:
            return network
        return nn.SyncBatchNorm.convert_sync_batchnorm(network, self._of_devices)

    def of_batches(self, *networks: nn.Module) -> list[Tensor]:
        """The buffers that follow each rank's part of the batches, such as running means.

        Not the vectors of spectral norms, which are the same on all ranks as long as the weights are.
        """
        followed = []
        for network in networks if self.world_size > 1 else ():
            for module in network.modules():
                if not isinstance(module, SpectralNorm):
                    followed += [b for b in module._buffers.values() if b is not None and b.is_floating_point()]
        return followed

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Makes each tensor its mean over the ranks, in one message for each type."""
        if self.world_size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_type.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in alike])
            dist.all_reduce(flat, group=self._of_devices)
            flat /= self.world_size
            for tensor, mean in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                tensor.detach().copy_(mean.view_as(tensor))

    def least_(self, tensor: Tensor) -> None:
        """Makes a tensor its elementwise minimum over the ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self._of_devices)

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all of them must ask."""
        if self.world_size == 1:
            return flag
        agreed = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return bool(agreed.item())

    def of_first(self, function: Callable[[], T]) -> T:
        """What a function returns on the first rank, the only one that calls it; its error is raised on all.

        The others wait meanwhile, so nothing in it may wait for them.
        """
        if self.world_size == 1:
            return function()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = function()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def by_first(self, function: Callable[[], T]) -> T | None:
        """As :meth:`of_first`, for what stays on the first rank: the others get None."""
        kept: list[T] = []
        self.of_first(lambda: kept.append(function()))
        return kept[0] if kept else None

    def gathered(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all ranks, on the CPU, their names followed by a dot and the rank."""
        everyone: list[Mapping[str, Tensor]] = [mine] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(everyone, dict(mine))
        return {f"{name}.{rank}": t for rank, tensors in enumerate(everyone) for name, t in tensors.items()}

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world_size > 1:
            dist.barrier()


def was_launched() -> bool:
    """Whether torchrun has started this process."""
    return dist.is_torchelastic_launched() or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def has_restarted() -> bool:
    """Whether torchrun has started this process again after another failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def without_sync(module: nn.Module, unsynced: bool) -> AbstractContextManager[None]:
    """Where gradients stay on their rank until a later backward pass sends them with its own."""
    return module.no_sync() if unsynced and isinstance(module, DistributedDataParallel) else nullcontext()

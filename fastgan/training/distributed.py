"""Distributed training: one process, or those that torchrun has started, on one or several machines.

Every rank draws the random numbers of the whole batch from the same seed and uses its shard. So training does not
depend on the number of ranks, except for the order of sums and for layers that depend on the whole batch.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastgan.nn import convert_sync_batchnorm
from fastgan.nn.spectral_norm import SpectralNorm
from fastgan.training.config import SettingsError

T = TypeVar("T")


class Distributed:
    """The processes that share a run, seen from this one; a single process unless made by :meth:`from_environment`.

    The hosts need not share a disk: only the first rank reads and writes the run's folder, in :meth:`on_first` and
    :meth:`only_on_first`. To other ranks the folder may appear old, half written or missing.

    Attributes:
        rank: from 0; rank 0 writes files and reports.
        world_size: number of processes.
        device_group: process group for tensors on the device; None for the default group.
    """

    def __init__(self) -> None:
        self.rank = 0
        self.world_size = 1
        self.device_group: dist.ProcessGroup | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """Joins the processes that torchrun has started; without torchrun, a single process.

        The default process group is gloo, on the CPU: the ranks exchange messages before the device is known, and these
        must not wait for a GPU.
        """
        distributed = cls()
        if dist.is_initialized():
            distributed.rank, distributed.world_size = dist.get_rank(), dist.get_world_size()
        elif dist.is_torchelastic_launched() or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            store, distributed.rank, distributed.world_size = next(dist.rendezvous("env://"))
            # torchrun keeps one store across restarts, and in it the addresses of dead ranks.
            store = dist.PrefixStore(f"attempt {_restarts()}", store)
            dist.init_process_group("gloo", store=store, rank=distributed.rank, world_size=distributed.world_size)
        return distributed

    def use(self, device: torch.device) -> None:
        """Prepares collectives on tensors of this rank's device, by NCCL on CUDA. All ranks must call this."""
        if self.world_size > 1 and device.type == "cuda":
            torch.cuda.set_device(device)  # for NCCL's own memory
            self.device_group = dist.new_group(backend="nccl")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch."""
        return batch if self.world_size == 1 else batch.chunk(self.world_size)[self.rank]

    def check_batch_size(self, batch_size: int, micro_batches: int) -> None:
        """Refuses a batch that cannot be divided into equal micro-batches of two samples or more."""
        parts = self.world_size * micro_batches
        if batch_size % parts or batch_size // parts < 2:
            raise SettingsError(
                f"the batch size is {batch_size}, with {self.world_size} ranks and accumulate {micro_batches}; "
                f"expected a multiple of {parts}, and at least 2 images in each micro-batch"
            )

    def require_same(self, what: str, found: str) -> None:
        """Refuses hosts on which ``what`` differs, such as data of which one has only a part, by an error on all ranks;
        all ranks must call this."""
        everyone = [found] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(everyone, found)
        for rank, other in enumerate(everyone):
            if other != everyone[0]:
                raise SettingsError(
                    f"{what} of rank {rank} are {other}, and those of rank 0 are {everyone[0]}; expected the same on "
                    "all hosts"
                )

    def sync_batch_norm(self, network: nn.Module) -> nn.Module:
        """The network with batch normalization over the batch of all ranks.

        torch supports this on CUDA only; on the CPU each rank normalizes over its own shard.
        """
        if self.world_size == 1 or not next(network.parameters()).is_cuda:
            return network
        return convert_sync_batchnorm(network, self.device_group)

    def batch_statistics(self, *networks: nn.Module) -> list[Tensor]:
        """Buffers that depend on a rank's shards, such as running means; empty for a single process.

        Spectral norm's u and v are excluded: like the weights they are equal on all ranks.
        """
        buffers = []
        for network in networks if self.world_size > 1 else ():
            for module in network.modules():
                if not isinstance(module, SpectralNorm):
                    buffers += [b for b in module._buffers.values() if b is not None and b.is_floating_point()]
        return buffers

    def all_reduce_mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over all ranks, in one message per dtype."""
        if self.world_size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_type.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in alike])
            dist.all_reduce(flat, group=self.device_group)
            flat /= self.world_size
            for tensor, mean in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                tensor.detach().copy_(mean.view_as(tensor))

    def all_reduce_min_(self, tensor: Tensor) -> None:
        """Replaces a tensor by its elementwise minimum over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self.device_group)

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank; all ranks must call this."""
        if self.world_size == 1:
            return flag
        agreed = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return bool(agreed.item())

    def on_first(self, function: Callable[[], T]) -> T:
        """Calls a function on the first rank only; returns its result, or raises its error, on all ranks.

        The other ranks wait, so the function must not call a collective.
        """
        if self.world_size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def only_on_first(self, function: Callable[[], T]) -> T | None:
        """As :meth:`on_first`, but the other ranks get None instead of the result."""
        kept: list[T] = []
        self.on_first(lambda: kept.append(function()))
        return kept[0] if kept else None

    def all_gather(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all ranks, on the CPU, under ``NAME.RANK``."""
        everyone: list[Mapping[str, Tensor]] = [mine] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(everyone, dict(mine))
        return {f"{name}.{rank}": t for rank, tensors in enumerate(everyone) for name, t in tensors.items()}


class GradientSync:
    """Averages a network's gradients over all ranks during a backward pass, with DistributedDataParallel.

    DDP prepares a backward pass in its forward, so every function whose gradients are averaged is called through DDP.
    All ranks start from the weights of the first. ``some_unused`` says that a backward pass may leave some parameters
    without gradients.
    """

    def __init__(self, network: nn.Module, distributed: Distributed, *, some_unused: bool) -> None:
        self._ddp = None
        if distributed.world_size > 1:
            # Autograd fails if buffers are written between two forward passes that share a backward pass, so DDP must
            # not broadcast them. torch 2.14 has renamed the argument.
            renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
            self._ddp = DistributedDataParallel(
                _Functions(network),
                **{"forward_sync_buffers" if renamed else "broadcast_buffers": False},
                find_unused_parameters=some_unused,
                process_group=distributed.device_group,
            )

    def of(self, function: Callable[..., T]) -> Callable[..., T]:
        """Wraps a function of the network so that its backward pass averages gradients."""
        return function if self._ddp is None else partial(self._ddp, function)

    def no_sync_unless(self, last: bool) -> AbstractContextManager[None]:
        """A context in which gradients stay on their rank, except for the last micro-batch, whose backward pass
        averages the sum."""
        return nullcontext() if last or self._ddp is None else self._ddp.no_sync()


class _Functions(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)


def has_restarted() -> bool:
    """Whether torchrun has restarted this process after a failure."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

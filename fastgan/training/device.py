"""The run's device: its choice, its peak memory, and the largest batch that fits."""

import gc
import os
import resource
from collections.abc import Callable

import torch

from fastgan.training.config import SettingsError

# Share of the free memory that a trial may use: fragmentation, library workspaces and the sample grid need the rest.
_SHARE = 0.9
_FIRST = 8
_LARGEST = 2**20


def resolve_device(name: str) -> torch.device:
    """Chooses the device: ``auto`` is a GPU if torch sees one, else the CPU.

    Without an INDEX, ``cuda`` is the GPU of the local rank, or the first GPU without torchrun. A device that does not
    exist is a SettingsError.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise SettingsError(f"device is {name!r}, expected auto, cpu, cuda or cuda:INDEX")
    index = index or os.environ.get("LOCAL_RANK", "0")
    if int(index) >= count:
        there = f"torch sees {count} CUDA device{'s' if count != 1 else ''}" if count else "torch sees no CUDA device"
        raise SettingsError(f"device {name!r} is not there: {there}")
    return torch.device("cuda", int(index))


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since the process began: of tensors on CUDA, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux


def largest_batch_size(fits: Callable[[int], bool], multiple: int) -> int | None:
    """The largest multiple of ``multiple`` from 2 to 2**20 that fits, to within an eighth; None where none fits.

    ``fits`` tries a batch size, and must be monotonic: no size above one that does not fit may fit.
    """
    # In multiples: ``low`` fits, or is too small for a batch; ``high`` does not fit, or is too large for one.
    smallest, beyond = -(-2 // multiple), _LARGEST // multiple + 1
    low, high = smallest - 1, -(-_FIRST // multiple)
    while high < beyond and fits(high * multiple):
        low, high = high, min(2 * high, beyond)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * multiple) else (low, middle)
    return low * multiple if low >= smallest else None


def fits_on_gpu(trial: Callable[[], None], device: torch.device) -> bool:
    """Whether a trial runs in a CUDA device's free memory, with a margin."""
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        trial()
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return False
    return torch.cuda.max_memory_allocated(device) - before <= _SHARE * free

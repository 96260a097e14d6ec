"""The device of a run: which one, how much of its memory is used, and the largest batch that fits into it."""

import gc
import os
import resource
from collections.abc import Callable

import torch

from fastgan.training.config import SettingsError

# Of the memory that was free: what fragments, libraries' workspaces and the sample grid take is not seen in a trial.
_SHARE = 0.9
_FIRST = 8
_LARGEST = 2**20


def resolve_device(name: str) -> torch.device:
    """Chooses the device: ``auto`` is a GPU if torch sees one, else the CPU.

    Without an INDEX it is the GPU of the local rank; the first one without torchrun.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Raises:
        SettingsError: for a device that is not there; one sentence.
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
    """Bytes: on CUDA the most that tensors have taken since the process began, else the most of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux


def largest_batch_size(fits: Callable[[int], bool], multiple: int) -> int | None:
    """The largest batch that fits, to within an eighth of it; None where not even the smallest does.

    Args:
        fits: tries a batch size out. What is larger than one that does not fit does not fit either.
        multiple: of what the batch size must be.

    Returns:
        A multiple of ``multiple``, at least 2 and at most 2**20.
    """
    # In multiples: ``low`` fits, or is too small to be a batch; ``high`` does not fit, or is too large to be one.
    smallest, beyond = -(-2 // multiple), _LARGEST // multiple + 1
    low, high = smallest - 1, -(-_FIRST // multiple)
    while high < beyond and fits(high * multiple):
        low, high = high, min(2 * high, beyond)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * multiple) else (low, middle)
    return low * multiple if low >= smallest else None


def fits_on_gpu(trial: Callable[[], None], device: torch.device) -> bool:
    """Whether a trial runs in the memory that is free on a CUDA device, with room left."""
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

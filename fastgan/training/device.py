"""From the setting ``device`` to a device that is there."""

import os

import torch

from fastgan.training.config import SettingsError


def resolve_device(name: str) -> torch.device:
    """Chooses the device: ``auto`` is a GPU where there is one, else the CPU.

    Without an INDEX it is the first GPU, or of the ranks on a machine each has the one of its local rank.

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

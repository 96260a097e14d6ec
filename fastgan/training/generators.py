"""A trained generator, from the folder of a run or from an export."""

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from fastgan.exporting import ModelFolderError, is_model_folder, load_model_folder
from fastgan.training.checkpoints import Warn, list_checkpoints, load_averaged_generator
from fastgan.training.device import resolve_device


def load_generator(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> nn.Module:
    """Loads a trained generator; nothing in its folder can make code run.

    Args:
        folder: a run, whose latest whole checkpoint is taken, or what :func:`fastgan.save_generator` or ``fastgan
            export`` has written.
        device: where the generator is to be: a device, or ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Returns:
        The generator, of a run the averaged one, in evaluation mode, its parameters without gradients, with
        ``latent_dim`` and ``num_classes``. It maps standard normal latents, float32 [N, latent_dim], and of a
        conditional generator labels, int64 [N], to images [N, C, H, W] in [-1, 1].

    Raises:
        TypeError: for a folder that is no path; one sentence.
        InputError: where the folder is not there, is neither, or is damaged, or the device is not there; one sentence.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"load_generator: folder is a {type(folder).__name__}, expected a path")
    where = device if isinstance(device, torch.device) else resolve_device(device)
    return load_trained_generator(Path(folder), where)[0]


def load_trained_generator(
    folder: Path, device: torch.device, *, warn: Warn = warnings.warn
) -> tuple[nn.Module, int | None]:
    """As :func:`load_generator`, and the number of steps that it was trained for, where that is known.

    Args:
        warn: is told in a sentence of each damaged checkpoint that is passed over.
    """
    if is_model_folder(folder):
        return load_model_folder(folder, device)
    if not list_checkpoints(folder):
        what = "is not there" if not folder.exists() else "is neither a run with a checkpoint nor an export"
        raise ModelFolderError(
            f"{str(folder)!r} {what}; expected a folder that 'fastgan train' or 'fastgan export' has written"
        )
    return load_averaged_generator(folder, device, warn=warn)

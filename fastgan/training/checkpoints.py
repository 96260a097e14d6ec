"""Checkpoints: a folder of safetensors and JSON for each saved step, whole or not there.

``RUN/checkpoints/STEP/`` holds ``state.json`` and one ``.safetensors`` file for each group of tensors. Nothing inside
depends on the time or the machine, so equal states are equal bytes.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fastgan.models import build_networks

Tensors = dict[str, dict[str, Tensor]]

_FORMAT = 1
_STATE_FILE = "state.json"


class CheckpointError(ValueError):
    """A run or checkpoint that cannot be used. The message is one sentence."""


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    *,
    folder: str = "checkpoints",
) -> Path:
    """Writes ``RUN/checkpoints/STEP``; a crash at any moment leaves either all of it or nothing under that name.

    Args:
        run: the run's folder.
        step: how many steps have been trained.
        tensors: groups of tensors, one file each.
        state: the rest, as JSON types.
        folder: another name than ``checkpoints`` for what is no checkpoint and never taken for one.
    """
    parent = run / folder
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for group, members in tensors.items():
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in members.items()}
        _write(partial / f"{group}.safetensors", safetensors.torch.save(contiguous))
    text = json.dumps({"format": _FORMAT, **state}, indent=2, sort_keys=True) + "\n"
    _write(partial / _STATE_FILE, text.encode())
    _sync_folder(partial)
    final = parent / str(step)
    partial.rename(final)
    _sync_folder(parent)
    return final


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of the highest step of a run, or None."""
    folder = run / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
    return folder / str(max(steps)) if steps else None


def require_checkpoint(run: Path) -> Path:
    """The checkpoint of the highest step of a run.

    Raises:
        CheckpointError: where there is none; one sentence.
    """
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        what = "is not there" if not run.exists() else "has no checkpoint"
        raise CheckpointError(f"run {str(run)!r} {what}; expected a folder that 'fastgan train' has written")
    return checkpoint


def load_checkpoint(checkpoint: Path, *groups: str) -> tuple[Tensors, dict[str, Any]]:
    """Reads the state and the named groups of tensors, on the CPU.

    Raises:
        CheckpointError: for a file that is missing or damaged; one sentence.
    """
    path = checkpoint / _STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        found = state.pop("format", None) if isinstance(state, dict) else None
        if found != _FORMAT:
            raise CheckpointError(f"checkpoint {str(checkpoint)!r} has format {found!r}, expected {_FORMAT}")
        tensors = {}
        for group in groups:
            path = checkpoint / f"{group}.safetensors"
            tensors[group] = safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"checkpoint file {str(path)!r} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint file {str(path)!r} is damaged: {' '.join(str(error).split())}") from None
    return tensors, state


def load_averaged_generator(run: Path, device: torch.device) -> tuple[nn.Module, int]:
    """Loads the averaged generator of a run's latest checkpoint, in evaluation mode, and the step it is from.

    Raises:
        CheckpointError: where there is no checkpoint, or a damaged one; one sentence.
    """
    checkpoint = require_checkpoint(run)
    tensors, state = load_checkpoint(checkpoint, "averaged_generator")
    try:
        generator = build_networks(**state["architecture"]).generator
        generator.load_state_dict(tensors["averaged_generator"])
        if growth := state.get("growth"):
            generator.grow(**growth)
        step = int(state["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise misfit(checkpoint, error) from None
    return generator.eval().requires_grad_(False).to(device), step


def misfit(checkpoint: Path, error: Exception) -> CheckpointError:
    """The refusal of a checkpoint whose files are readable but do not fit together."""
    first_line = str(error).partition("\n")[0]
    return CheckpointError(f"checkpoint {str(checkpoint)!r} does not fit its model: {first_line}")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

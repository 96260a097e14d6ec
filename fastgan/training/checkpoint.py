"""Saves, verifies, loads and deletes checkpoints. Each is a folder of safetensors and JSON, complete or absent.

``RUN/checkpoints/STEP/`` holds ``state.json``, a ``.safetensors`` file per group of tensors, and ``SHA256SUMS``, their
digests in the format of ``sha256sum``. The digests detect damage to any byte, and a file that is missing, added or from
another checkpoint. ``state.json`` holds the step, so a renamed folder is detected too. No content depends on the time
or the machine: equal states are equal bytes.

Loading a checkpoint executes none of it: safetensors and JSON are data. Sizes are checked before memory is allocated.
Digests detect damage; they do not protect against someone who rewrites them too.
"""

import codecs
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fastgan.errors import MISFITS, InputError, first_line
from fastgan.exporting import ModelFolderError, copied_tensors, is_model_folder, load_model_folder
from fastgan.models.own import Model, build_generator, require_build
from fastgan.random_state import preserved_random_state
from fastgan.training.device import resolve_device

Tensors = dict[str, dict[str, Tensor]]
Warn = Callable[[str], None]

_FORMAT = 2
_STATE_FILE = "state.json"
_SUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)\r?\n", re.ASCII)
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")
# The state of a run is a few kilobytes; its history of 500 steps with one report per step is 300 kilobytes.
_MOST_BYTES_OF_TEXT = 2**24
# For the names, shapes and offsets in a file of tensors: some hundred tensors with 150 bytes each.
_HEADER_BYTES = 2**20


class CheckpointError(InputError):
    """A run or checkpoint that cannot be used. The message is one sentence."""


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    *,
    folder: str = "checkpoints",
) -> Path:
    """Writes ``RUN/checkpoints/STEP``; after a crash that folder is either complete or absent.

    Each group of tensors is a file; the state, JSON types, also holds the step. Another parent ``folder`` keeps it from
    being resumed. An existing checkpoint is never overwritten; where writing fails the incomplete folder is removed.
    """
    parent = run / folder
    final = parent / str(step)
    if os.path.lexists(final):
        raise CheckpointError(f"checkpoint {str(final)!r} is there already, and is not overwritten")
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    sums = {}

    def write(name: str, content: bytes) -> None:
        sums[name] = hashlib.sha256(content).hexdigest()
        write_file(partial / name, content)

    try:
        partial.mkdir()
        for group, members in tensors.items():
            write(f"{group}.safetensors", safetensors.torch.save(copied_tensors(members)))
        text = json.dumps({**state, "format": _FORMAT, "step": step}, indent=2, sort_keys=True) + "\n"
        write(_STATE_FILE, text.encode())
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        write_file(partial / _SUMS_FILE, "".join(lines).encode())
        sync_folder(partial)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(parent)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, by step, damaged ones included."""
    folder = run / "checkpoints"
    names = [p.name for p in folder.iterdir() if _STEP.fullmatch(p.name)] if folder.is_dir() else []
    return [folder / name for name in sorted(names, key=int)]


def latest_checkpoint(run: Path) -> Path | None:
    """The run's checkpoint with the highest step, or None."""
    return next(reversed(list_checkpoints(run)), None)


def find_checkpoint(run: Path, *, warn: Warn = warnings.warn) -> tuple[Path, dict[str, Any]]:
    """The latest complete checkpoint of a run, and its state; CheckpointError where there is none.

    ``warn`` is called with one sentence per damaged checkpoint that is skipped.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        what = "does not exist" if not run.exists() else "has no checkpoint"
        raise CheckpointError(f"run {str(run)!r} {what}; expected a folder that 'fastgan train' has written")
    damaged = []
    for checkpoint in reversed(checkpoints):
        try:
            state = check_checkpoint(checkpoint)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for sentence in damaged:
            warn(f"{sentence}; checkpoint {str(checkpoint)!r} is used instead")
        return checkpoint, state
    raise CheckpointError(f"{damaged[0]}; run {str(run)!r} has no other that is whole; train anew with another --out")


def check_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Compares every file of a checkpoint with its digest, and returns the state.

    Raises:
        CheckpointError: for a file that is missing, added, altered, from another checkpoint or not a regular file.
    """
    try:
        sizes = _sizes_of_files(checkpoint)
        sums = _read_sums(checkpoint, sizes)
        for name, digest in sums.items():
            with (checkpoint / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise _damage(checkpoint, f"{name} is not the file that was saved, by its SHA-256")
        text = _read_text(checkpoint, _STATE_FILE, sizes)
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(checkpoint)!r} cannot be read: {error.strerror}") from None
    try:
        state = json.loads(text)
    except ValueError as error:
        raise _damage(checkpoint, f"{_STATE_FILE} is not valid: {error}") from None
    found = state.pop("format", None)
    if found != _FORMAT:
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} has format {first_line(repr(found))}, expected {_FORMAT}"
        )
    if state.get("step") != int(checkpoint.name):
        raise _damage(checkpoint, f"it is that of step {state.get('step')!r}")
    return state


def load_tensors(checkpoint: Path, group: str, *, most_bytes: int | None = None) -> dict[str, Tensor]:
    """Reads a group of tensors, at most ``most_bytes`` if given, of a verified checkpoint to the CPU."""
    path = checkpoint / f"{group}.safetensors"
    try:
        size = path.stat().st_size
        if most_bytes is None or size <= most_bytes + _HEADER_BYTES:
            return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"checkpoint file {str(path)!r} cannot be read: {error.strerror}") from None
    except (SafetensorError, *MISFITS) as error:
        raise _damage(checkpoint, f"{path.name} is not valid: {error}") from None
    raise misfit(checkpoint, f"{path.name} has {size:,} bytes, expected at most {most_bytes + _HEADER_BYTES:,}")


def load_generator(
    folder: str | os.PathLike[str], device: torch.device | str = "cpu", model: Model | None = None
) -> nn.Module:
    """Loads a trained generator, without executing any file in its folder.

    Args:
        folder: a run, whose latest complete checkpoint is loaded, or a folder written by :func:`fastgan.save_generator`
            or ``fastgan export``.
        device: the generator's device: a device, or ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        model: for your own networks: the function that builds them, its name ``package.module:function``, or
            a generator, into which the weights are loaded and which is returned.

    Returns:
        The generator (for a run, its EMA) in evaluation mode, with parameters that require no gradients and with the
        attributes ``latent_dim`` and ``num_classes``. It maps standard normal latents, float32 [N, latent_dim], and, if
        conditional, labels, int64 [N], to images [N, C, H, W] in [-1, 1].

    Raises:
        TypeError: for a folder that is not a path, or a model of another type; one sentence.
        InputError: where the folder is missing, is neither kind, or is damaged, or the device is missing; one sentence.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"load_generator: folder is a {type(folder).__name__}, expected a path")
    if model is not None and not isinstance(model, str) and not callable(model):
        raise TypeError(f"load_generator: model is a {type(model).__name__}, expected a function, its name or a module")
    where = device if isinstance(device, torch.device) else resolve_device(device)
    return load_trained_generator(Path(folder), where, model=model)[0]


@preserved_random_state()
def load_trained_generator(
    folder: Path, device: torch.device, *, model: Model | None = None, warn: Warn = warnings.warn
) -> tuple[nn.Module, int | None]:
    """As :func:`load_generator`, and the number of steps trained; None where unknown.

    ``warn`` is called with one sentence per damaged checkpoint that is skipped.
    """
    if is_model_folder(folder):
        return load_model_folder(folder, device, model)
    if not list_checkpoints(folder):
        what = "does not exist" if not folder.exists() else "is neither a run with a checkpoint nor an export"
        raise ModelFolderError(
            f"{str(folder)!r} {what}; expected a folder that 'fastgan train' or 'fastgan export' has written"
        )
    checkpoint, state = find_checkpoint(folder, warn=warn)
    try:
        architecture = state["architecture"]
        require_build(folder, architecture["model"], model)
        generator = build_generator(architecture, model, state.get("class_names"))
        num_bytes = sum(tensor.nbytes for tensor in generator.state_dict().values())
        tensors = load_tensors(checkpoint, "averaged_generator", most_bytes=num_bytes)
        generator.load_state_dict(tensors)
        require_layout(generator.state_dict(), tensors)
        if growth := state.get("growth"):
            generator.grow(**growth)
    except InputError:
        raise
    except (OSError, *MISFITS) as error:
        raise misfit(checkpoint, error) from None
    return generator.eval().requires_grad_(False).to(device), state["step"]


def drop_checkpoints(run: Path, *, keep_last: int, keep_every: int, protected: Collection[int] = ()) -> list[int]:
    """Deletes expired checkpoints, and leftovers of interrupted deletions and saves.

    Called once the newest checkpoint is on the disk. A checkpoint is renamed before its files are deleted, so that an
    interrupted deletion is never mistaken for a checkpoint. The latest ``keep_last`` stay (0 for all), multiples of
    ``keep_every`` (0 for none), and ``protected`` steps, such as the best. Returns the deleted steps.
    """
    for leftover in (run / "checkpoints").glob(".*.*"):
        if leftover.name.endswith((".partial", ".deleted")):
            shutil.rmtree(leftover)
    if keep_last == 0:
        return []
    gone = []
    for checkpoint in list_checkpoints(run)[:-keep_last]:
        step = int(checkpoint.name)
        if step in protected or (keep_every and step % keep_every == 0):
            continue
        doomed = checkpoint.with_name(f".{step}.deleted")
        checkpoint.rename(doomed)
        sync_folder(doomed.parent)
        shutil.rmtree(doomed)
        gone.append(step)
    return gone


def set_aside_after(run: Path, step: int) -> list[Path]:
    """Renames the checkpoints after a step, which are damaged, so that training can save at their steps again: to
    ``STEP.damaged``, or ``STEP.damaged-2`` and so on where the name is taken. Returns the new paths."""
    renamed = []
    for checkpoint in list_checkpoints(run):
        if int(checkpoint.name) > step:
            names = [f"{checkpoint.name}.damaged"]
            while os.path.lexists(checkpoint.with_name(names[-1])):
                names.append(f"{names[0]}-{len(names) + 1}")
            renamed.append(checkpoint.rename(checkpoint.with_name(names[-1])))
    return renamed


def require_layout(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises ValueError with the first difference in names, shapes and types, one sentence."""
    for name in sorted(expected.keys() | found.keys()):
        layouts = [
            f"{tensor.dtype} {list(tensor.shape)}" if (tensor := tensors.get(name)) is not None else "no such tensor"
            for tensors in (found, expected)
        ]
        if layouts[0] != layouts[1]:
            raise ValueError(f"{name} is {layouts[0]}, expected {layouts[1]}")


def misfit(checkpoint: Path, error: Exception | str) -> CheckpointError:
    """The error for a checkpoint whose files are intact but do not fit the model."""
    return CheckpointError(f"checkpoint {str(checkpoint)!r} does not fit its model: {first_line(error)}")


def _damage(checkpoint: Path, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {str(checkpoint)!r} is damaged: {first_line(what)}")


def _sizes_of_files(checkpoint: Path) -> dict[str, int]:
    """File sizes by name; anything but a regular file is refused, before it is opened."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        raise _damage(checkpoint, "it is no folder")
    sizes = {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with os.scandir(checkpoint) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise _damage(checkpoint, f"{entry.name!r} is no ordinary file")
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
            if sizes[entry.name] > memory:
                raise _damage(checkpoint, f"{entry.name!r} has {sizes[entry.name]:,} bytes, more than the memory here")
    return sizes


def _read_sums(checkpoint: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """The digest of each file, by name."""
    # The only text file without a digest: an editor on Windows may have saved it again.
    text = _read_text(checkpoint, _SUMS_FILE, sizes).removeprefix(codecs.BOM_UTF8.decode("latin-1"))
    lines = [_LINE.fullmatch(line) for line in text.splitlines(keepends=True)]
    sums = {line[2]: line[1] for line in lines if line}
    if len(sums) != len(lines):
        raise _damage(checkpoint, f"{_SUMS_FILE} is not a list of digests and names")
    for name in sorted({_STATE_FILE, *sums} - sizes.keys()):
        raise _damage(checkpoint, f"{name} is missing")
    for name in sorted(sizes.keys() - sums.keys() - {_SUMS_FILE}):
        raise _damage(checkpoint, f"{name!r} is not one of its files")
    return sums


def _read_text(checkpoint: Path, name: str, sizes: Mapping[str, int]) -> str:
    if name not in sizes:
        raise _damage(checkpoint, f"{name} is missing")
    if sizes[name] > _MOST_BYTES_OF_TEXT:
        raise _damage(checkpoint, f"{name} has {sizes[name]:,} bytes, expected at most {_MOST_BYTES_OF_TEXT:,}")
    # Latin-1 has a character for every byte; the parser refuses characters that are not ASCII.
    return (checkpoint / name).read_bytes().decode("latin-1" if name == _SUMS_FILE else "utf-8", errors="replace")


def write_file(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file atomically: at any moment either the old or the new content is there, complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_file(partial, content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

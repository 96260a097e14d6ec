"""A model folder: ``config.json`` and ``model.safetensors``, from which any machine with fastgan builds the generator.

Only JSON and safetensors are read: data, never code. The card, ``README.md``, is for people.
"""

import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fastgan.errors import MISFITS, InputError, first_line, writing
from fastgan.models import build_networks
from fastgan.models.own import OWN, Model, build_generator, require_build
from fastgan.random_state import preserved_random_state

_FORMAT = 1
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
# A config has a few hundred bytes; a larger file is not a config.
_MOST_BYTES = 2**16


class ModelFolderError(InputError):
    """A model folder that cannot be used or written. The message is one sentence."""


def is_model_folder(folder: Path) -> bool:
    """Whether :func:`save_generator` has written a folder, even if a file is missing; False for a run."""
    return (folder / _WEIGHTS).is_file() or (folder / _CONFIG).is_file()


def save_generator(
    generator: nn.Module, folder: str | os.PathLike[str], *, step: int | None = None, card: str = ""
) -> None:
    """Writes a generator to a folder, which is created if missing.

    Args:
        generator: a generator from :func:`fastgan.models.build_networks` or :func:`fastgan.load_generator`, or a
            trainer's ``ema.module``, compiled or not.
        folder: folder for ``config.json``, ``model.safetensors`` and, with a ``card``, ``README.md``.
        step: number of steps trained, if known.
        card: the model card in Markdown.

    Raises:
        TypeError: for a generator that is not a module, a folder that is not a path, or a step that is not an integer.
        ModelFolderError: for any other module, or a folder that cannot be written; one sentence.
    """
    if not isinstance(generator, nn.Module):
        raise TypeError(f"save_generator: generator is a {type(generator).__name__}, expected a torch.nn.Module")
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"save_generator: folder is a {type(folder).__name__}, expected a path")
    folder, step = Path(folder), None if step is None else operator.index(step)
    generator = getattr(generator, "_orig_mod", generator)  # unwrapped, if torch.compile has wrapped it
    _require_ours(generator)
    growing = getattr(generator, "synthesis", None)
    grown = None if growing is None else {"resolution": growing.resolution, "fade": float(growing.fade)}
    config = {
        "format": _FORMAT,
        "architecture": generator.architecture,
        "class_names": getattr(generator, "class_names", None),
        "growth": grown,
        "step": step,
    }
    tensors = copied_tensors(generator.state_dict())
    with writing(f"folder {str(folder)!r}", ModelFolderError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _WEIGHTS).write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")


def copied_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU: safetensors refuses tensors that share memory, such as tied weights."""
    return {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in tensors.items()}


@preserved_random_state()
def load_model_folder(folder: Path, device: torch.device, model: Model | None = None) -> tuple[nn.Module, int | None]:
    """As :func:`fastgan.load_generator`, for a model folder; also returns the number of steps trained, or None."""
    config = _read_config(folder / _CONFIG)
    architecture = config["architecture"]
    require_build(folder, str(architecture.get("model")), model)
    path = folder / _WEIGHTS
    try:
        tensors = safetensors.torch.load_file(path)
        if model is None:  # checked before memory is allocated for the sizes in the config
            _require_layout(architecture, tensors)
        generator = build_generator(architecture, model, config.get("class_names"))
        generator.load_state_dict(tensors)
        if config["growth"]:
            generator.grow(**config["growth"])
    except OSError as error:
        raise ModelFolderError(f"file {str(path)!r} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ModelFolderError(f"file {str(path)!r} is damaged: {' '.join(str(error).split())}") from None
    except InputError:
        raise
    except MISFITS as error:
        raise ModelFolderError(
            f"the files of model folder {str(folder)!r} do not fit together: {first_line(error)}"
        ) from None
    return generator.eval().requires_grad_(False).to(device), config["step"]


def _require_ours(generator: nn.Module) -> None:
    """Refuses a module that :func:`load_model_folder` could not rebuild."""
    architecture = getattr(generator, "architecture", None)
    why = "it has no architecture, as the generators of fastgan.models have"
    if isinstance(architecture, dict):
        if architecture.get("model") == OWN:
            return
        try:
            _require_layout(architecture, generator.state_dict())
            return
        except MISFITS as error:
            why = f"it is not what its architecture builds: {first_line(error)}"
    raise ModelFolderError(
        f"a {type(generator).__name__} cannot be saved as a model folder: {why}; save its state_dict() with torch.save "
        "or safetensors instead"
    )


def _require_layout(architecture: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    with torch.device("meta"):  # allocates no memory
        built = build_networks(**architecture).generator.state_dict()
    expected, found = ({name: list(tensor.shape) for name, tensor in state.items()} for state in (built, tensors))
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{name} has shape {found.get(name)}, expected {expected.get(name)}")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        config = json.loads(text) if len(text) <= _MOST_BYTES else None
    except OSError as error:
        raise ModelFolderError(f"file {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"file {str(path)!r} is damaged: {error}") from None
    if len(text) > _MOST_BYTES:
        raise ModelFolderError(f"file {str(path)!r} has more than {_MOST_BYTES} bytes, and is not a config")
    found = config.get("format") if isinstance(config, dict) else None
    if found != _FORMAT:
        raise ModelFolderError(f"file {str(path)!r} has format {found!r}, expected {_FORMAT}")
    kinds = {"architecture": dict, "growth": dict | None, "step": int | None}
    for name, kind in kinds.items():
        if name not in config or not isinstance(config[name], kind):
            raise ModelFolderError(f"file {str(path)!r} has {name} {config.get(name)!r}, which does not belong there")
    return config

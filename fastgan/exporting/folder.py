"""A model folder: ``config.json`` and ``model.safetensors``, from which any machine with fastgan builds the generator.

Only JSON and safetensors are read: data, never code. The card, ``README.md``, is for people.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fastgan.errors import InputError
from fastgan.models import build_networks
from fastgan.random_state import preserved_random_state

_FORMAT = 1
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
# A config is some hundred bytes; more is no config.
_MOST_BYTES = 2**16


class ModelFolderError(InputError):
    """A model folder that cannot be used or written. The message is one sentence."""


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is one that :func:`save_generator` has written, rather than a run."""
    return (folder / _WEIGHTS).is_file() and (folder / _CONFIG).is_file()


def save_generator(generator: nn.Module, folder: Path | str, *, step: int | None = None, card: str = "") -> None:
    """Writes a generator to a folder, which is made where it is not there.

    Args:
        generator: of :func:`fastgan.models.build_networks`.
        folder: gets ``config.json``, ``model.safetensors`` and, where there is a ``card``, ``README.md``.
        step: how many steps it was trained for, if that is known.
        card: Markdown.

    Raises:
        ModelFolderError: where it cannot be written; one sentence.
    """
    folder = Path(folder)
    growing = getattr(generator, "synthesis", None)
    growth = None if growing is None else {"resolution": growing.resolution, "fade": float(growing.fade)}
    config = {"format": _FORMAT, "architecture": generator.architecture, "growth": growth, "step": step}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _WEIGHTS).write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ModelFolderError(f"folder {str(folder)!r} cannot be written: {error.strerror or error}") from None


def load_generator(folder: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """Loads the generator of a model folder; nothing in it can make code run.

    Args:
        folder: as :func:`save_generator` or ``fastgan export`` has written it.
        device: where the generator is to be.

    Returns:
        The generator in evaluation mode, its parameters without gradients, with ``latent_dim`` and ``num_classes``.

    Raises:
        ModelFolderError: where the folder is not there, damaged, or its files do not fit together; one sentence.
    """
    return load_model_folder(Path(folder), torch.device(device))[0]


@preserved_random_state()
def load_model_folder(folder: Path, device: torch.device) -> tuple[nn.Module, int | None]:
    """As :func:`load_generator`, and the number of steps that it was trained for, where that is known."""
    config = _read_config(folder / _CONFIG)
    path = folder / _WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            layout = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        # On the meta device a size costs nothing: what a config asks for gets memory only where the file has it too.
        with torch.device("meta"):
            expected = build_networks(**config["architecture"]).generator.state_dict()
        _require_layout({name: list(tensor.shape) for name, tensor in expected.items()}, layout)
        generator = build_networks(**config["architecture"]).generator
        generator.load_state_dict(safetensors.torch.load_file(path))
        if config["growth"]:
            generator.grow(**config["growth"])
    except OSError as error:
        raise ModelFolderError(f"file {str(path)!r} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ModelFolderError(f"file {str(path)!r} is damaged: {' '.join(str(error).split())}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ModelFolderError(f"the files of model folder {str(folder)!r} do not fit together: {first_line}") from None
    return generator.eval().requires_grad_(False).to(device), config["step"]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ModelFolderError(f"file {str(path)!r} has more than {_MOST_BYTES} bytes, and is no config")
        config = json.loads(text)
    except OSError as error:
        raise ModelFolderError(f"file {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelFolderError):
            raise
        raise ModelFolderError(f"file {str(path)!r} is damaged: {error}") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != _FORMAT:
        raise ModelFolderError(f"file {str(path)!r} has format {found!r}, expected {_FORMAT}")
    kinds = {"architecture": dict, "growth": dict | None, "step": int | None}
    for name, kind in kinds.items():
        if name not in config or not isinstance(config[name], kind):
            raise ModelFolderError(f"file {str(path)!r} has {name} {config.get(name)!r}, which does not belong there")
    return config


def _require_layout(expected: dict[str, list[int]], found: dict[str, list[int]]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{name} has shape {found.get(name)}, expected {expected.get(name)}")

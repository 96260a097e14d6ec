"""A disk cache of real features, so that they are computed once per data set and network."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastgan.metrics.features import Features

_FORMAT = 1


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/fastgan/features``, or ``~/.cache/fastgan/features`` if that variable is not set."""
    # The XDG specification requires relative paths to be ignored.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "fastgan" / "features"


def digest_of(images: Tensor) -> str:
    """SHA-256 of the shape and the bytes of images."""
    digest = hashlib.sha256(repr((tuple(images.shape), str(images.dtype))).encode())
    digest.update(images.cpu().contiguous().numpy())
    return digest.hexdigest()


def cached(
    key: Mapping[str, str | int | bool], compute: Callable[[], Features], folder: Path, *, warn: Callable[[str], None]
) -> Features:
    """Reads features from the cache in ``folder``; if they are not there, computes and writes them.

    ``key`` contains everything that determines the features. ``warn`` is called for a damaged file and a failed write.
    """
    text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if metadata.get("key") != text or metadata.get("digest") != _digest(tensors):
                raise ValueError("its content is not what was written")
            return Features(tensors["values"], tensors.get("logits"))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            warn(f"cached features {str(path)!r} are damaged and computed again: {error}")
    features = compute()
    tensors = {name: tensor.contiguous() for name, tensor in features._asdict().items() if tensor is not None}
    content = safetensors.torch.save(tensors, metadata={"key": text, "digest": _digest(tensors)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Another process may write the same file, so each writes a temporary file first.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".partial", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    except OSError as error:
        warn(f"features cannot be kept in {str(folder)!r}: {error.strerror}")
    return features


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256("".join(name + digest_of(tensors[name]) for name in sorted(tensors)).encode()).hexdigest()

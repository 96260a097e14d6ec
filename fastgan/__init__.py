"""Trains generative adversarial networks with fused Triton kernels."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgan.acceleration import accelerate
    from fastgan.exporting import save_generator
    from fastgan.metrics.evaluation import evaluate
    from fastgan.training.checkpoint import load_generator
    from fastgan.training.ema import EMA
    from fastgan.training.trainer import Trainer

__version__ = "0.1.0"

# Imported on demand, because torch takes seconds: submodules, and other names with the module that defines them.
_MODULES = (
    *("acceleration", "collapse", "data", "dropin", "exporting", "losses", "metrics", "models", "nn", "regularizers"),
    *("sampling", "training"),
)
_NAMES = {
    "EMA": "fastgan.training.ema",
    "Trainer": "fastgan.training.trainer",
    "accelerate": "fastgan.acceleration",
    "evaluate": "fastgan.metrics.evaluation",
    "load_generator": "fastgan.training.checkpoint",
    "save_generator": "fastgan.exporting",
}
__all__ = list(_NAMES) + list(_MODULES)


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _MODULES:
        return import_module(f"fastgan.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

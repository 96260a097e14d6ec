"""Runs StyleGAN repositories on fastgan's ops, without a CUDA toolkit.

``python -m fastgan.dropin SCRIPT [ARGS]`` runs a script of such a repository unchanged; :func:`install` does the same
from within Python. :mod:`fastgan.dropin.converters` replaces single layers, for :func:`fastgan.accelerate`.

This package does not import torch: every Python child of a process that called :func:`install` imports it at startup.
"""

from types import ModuleType

from fastgan.dropin.installation import install

__all__ = ["converters", "install"]


def __getattr__(name: str) -> ModuleType:
    if name != "converters":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import fastgan.dropin.converters

    return fastgan.dropin.converters

"""StyleGANs of other people on fastgan's ops, without a CUDA toolkit.

``python -m fastgan.dropin SCRIPT [ARGS]`` runs a script of such a repository unchanged; :func:`install` does the same
from within Python. :mod:`fastgan.dropin.converters` replaces single layers, for :func:`fastgan.accelerate`.

This imports no torch: every Python process below one that called :func:`install` starts here.
"""

from types import ModuleType

from fastgan.dropin.installation import install

__all__ = ["converters", "install"]


def __getattr__(name: str) -> ModuleType:
    if name != "converters":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import fastgan.dropin.converters

    return fastgan.dropin.converters

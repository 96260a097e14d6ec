"""Restores two calls that torch accepted when the repositories were written, and now refuses (2.13).

stylegan3 makes both, so that without this module its ``train.py`` does not reach its first step: ``InfiniteSampler`` in
``torch_utils/misc.py`` calls ``super().__init__(dataset)`` (now "object.__init__() takes exactly one argument"), and
``train.py`` has ``betas=[0,0.99]`` for Adam (now "betas must be either both floats or both Tensors"). Its forks, and
stylegan2-ada-pytorch before it, do the same.
"""

import functools
from typing import Any

from torch.optim import Adam
from torch.utils.data import Sampler


def accept_old_calls() -> None:
    """Makes torch accept ``Sampler.__init__(dataset)``, and integers among the ``betas`` of Adam."""
    if Sampler.__init__ is object.__init__:
        Sampler.__init__ = _init_sampler  # type: ignore[method-assign, assignment]
    if not hasattr(Adam.__init__, "__wrapped__"):
        Adam.__init__ = _with_float_betas(Adam.__init__)  # type: ignore[method-assign]


def _init_sampler(self: Sampler[Any], data_source: object = None, **others: Any) -> None:
    super(Sampler, self).__init__(**others)


def _with_float_betas(init: Any) -> Any:
    @functools.wraps(init)
    def init_adam(self: Adam, *args: Any, **settings: Any) -> None:
        if "betas" in settings:
            settings["betas"] = tuple(float(b) if isinstance(b, int) else b for b in settings["betas"])
        init(self, *args, **settings)

    return init_adam

"""Checks and converts arguments that the replaced functions share. Each error message is one sentence."""

import math
import operator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fastgan_kernels import use_backend
from fastgan_kernels.backend import is_transformed


def implementation(op: str, impl: str) -> AbstractContextManager[None]:
    """The context for ``impl``: ``'cuda'`` runs the backend of :func:`fastgan_kernels.backend_of`, ``'ref'`` plain
    torch."""
    if impl not in ("cuda", "ref"):
        raise ValueError(f"{op}: impl is {impl!r}, expected 'cuda' or 'ref'")
    return use_backend("reference") if impl == "ref" else nullcontext()


def needs_torchs_operators() -> bool:
    """Whether ``torch.compile`` or ``torch.func`` traces, or forward-mode differentiation is on.

    These cannot see through fastgan's autograd functions, but handle torch's operators.
    """
    return torch.compiler.is_compiling() or is_transformed()


def check_image(op: str, name: str, x: Any) -> None:
    """Checks that ``x`` is a tensor [N, C, H, W]."""
    check_tensor(op, name, x)
    if x.dim() != 4:
        raise ValueError(f"{op}: {name} has shape {list(x.shape)}, expected [N, C, H, W]")


def check_tensor(op: str, name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, expected a tensor")


def check_filter(op: str, name: str, f: Any) -> None:
    """Checks that ``f`` is ``None`` or a constant float32 tensor [k] or [kh, kw]."""
    if f is None:
        return
    check_tensor(op, name, f)
    if f.dim() not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: {name} has shape {list(f.shape)}, expected [taps], [height, width] or None")
    if f.dtype != torch.float32:
        raise TypeError(f"{op}: {name} is {f.dtype}, expected float32, as setup_filter returns it")
    if f.requires_grad:
        raise ValueError(f"{op}: {name} requires a gradient, expected a constant")


def check_at_least(op: str, name: str, value: float, low: float, *, above: bool = False) -> float:
    """Checks that ``value`` is a finite number of at least ``low``, or greater than ``low`` with ``above``."""
    number = float(value)
    if not low <= number < math.inf or (above and number == low):
        how = "above" if above else "of at least"
        raise ValueError(f"{op}: {name} is {value}, expected a finite number {how} {low}")
    return number


def check_clamp(op: str, clamp: float | None) -> float | None:
    return None if clamp is None or clamp == math.inf else check_at_least(op, "clamp", clamp, 0)


def integer(op: str, name: str, value: Any, low: int | None = None) -> int:
    """Checks that ``value`` is an integer of Python or numpy, at least ``low``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected integers") from None
    if low is not None and number < low:
        raise ValueError(f"{op}: {name} is {value!r}, expected at least {low}")
    return number


def integers(op: str, name: str, value: Any, counts: tuple[int, ...], low: int | None = None) -> tuple[int, ...]:
    """Converts one integer, or a list or tuple whose length is in ``counts``, to a tuple of integers."""
    if not isinstance(value, (list, tuple)):
        return (integer(op, name, value, low),)
    if len(value) not in counts:
        raise ValueError(f"{op}: {name} is {value!r}, expected an integer or a list of {' or '.join(map(str, counts))}")
    return tuple(integer(op, name, entry, low) for entry in value)

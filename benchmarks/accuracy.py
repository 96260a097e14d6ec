"""No timing behind a wrong result: every provider is held to the float64 reference first."""

import math

import torch
from torch import Tensor

SEPARATE_OPS = 4
"""How often a provider made of separate torch ops rounds to its type: product, sum, activation, output."""


def tolerance(dtype: torch.dtype, reduction: int, roundings: int = SEPARATE_OPS) -> float:
    """The largest :func:`error` that rounding explains, for a pass whose longest sum has ``reduction`` terms.

    Storage: ``roundings``, each by at most eps / 2 of a value of the size of the result. Arithmetic in float32: a
    constant number of operations, and a sum of n terms of random sign, whose rounding errors grow like sqrt(n) even
    where they are added one by one.
    """
    single = torch.finfo(torch.float32).eps
    return roundings / 2 * torch.finfo(dtype).eps + (8 + math.sqrt(reduction)) * single


def error(outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest error of any output: in norm, relative to its norm, and per element, relative to twice its maximum.

    The norm sees a small error everywhere, the maximum a single wrong element. NaN where anything is NaN.
    """
    if len(outputs) != len(expected):
        raise ValueError(f"{len(outputs)} outputs, expected {len(expected)}")
    return max((_error_of(y, r) for y, r in zip(outputs, expected, strict=True)), key=_nan_is_largest)


def _error_of(y: Tensor, expected: Tensor) -> float:
    if y.shape != expected.shape:
        raise ValueError(f"output of shape {list(y.shape)}, expected {list(expected.shape)}")
    difference = y.detach().to(expected.dtype) - expected
    pairs = (
        (difference.norm().item(), expected.norm().item()),
        (difference.abs().max().item(), 2 * expected.abs().max().item()),
    )
    return max((0.0 if d == 0 else d / r if r else math.inf for d, r in pairs), key=_nan_is_largest)


def _nan_is_largest(value: float) -> float:
    return math.inf if math.isnan(value) else value

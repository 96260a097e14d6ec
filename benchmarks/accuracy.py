"""The error of an implementation against the float64 reference, and the error that rounding explains."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def tolerance(dtype: torch.dtype, reduction: int, roundings: int = 4) -> float:
    """The largest :func:`error` that rounding explains, for a pass whose longest sum has ``reduction`` terms.

    Storage contributes ``roundings`` (by default product, sum, activation, output), each by at most eps / 2 of a value
    as large as the result. Arithmetic in float32 contributes a constant number of operations, and a sum of n terms of
    random sign, whose rounding errors grow like sqrt(n) even where they are added one by one.
    """
    single = torch.finfo(torch.float32).eps
    return roundings / 2 * torch.finfo(dtype).eps + (8 + math.sqrt(reduction)) * single


def error(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest error of any output: in norm, relative to its norm; per element, relative to twice its maximum.

    The norm shows a small error everywhere, the maximum a single wrong element. The result is infinite if any output
    has a NaN.
    """
    if [y.shape for y in outputs] != [e.shape for e in expected]:
        raise ValueError(f"outputs of shapes {[*map(_shape, outputs)]}, expected {[*map(_shape, expected)]}")
    errors = [0.0]
    for y, e in zip(outputs, expected, strict=True):
        # Near zero a type has steps of a fixed size; in float16 the gradient of a mean may be only a few steps large.
        step = torch.finfo(y.dtype).smallest_normal * torch.finfo(y.dtype).eps
        difference = ((y.detach().to(e.dtype) - e).abs() - step).clamp_min(0)
        for d, r in (
            (difference.norm().item(), e.norm().item()),
            (difference.max().item(), 2 * e.abs().max().item()),
        ):
            errors.append(0.0 if d == 0 else d / r if r and not math.isnan(d) else math.inf)
    return max(errors)


def _shape(t: Tensor) -> list[int]:
    return list(t.shape)

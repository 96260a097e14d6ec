"""Checks of the public functions' arguments; each raises an error of one sentence."""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from fastgan_kernels.activation import ACTIVATIONS

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(op: str, name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise _no_tensor(op, name, value)


def check_feature_map(op: str, x: Tensor) -> None:
    """``x`` must be [N, C, *spatial] of a floating-point type."""
    check_tensor(op, "x", x)
    if x.dim() < 2:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected [N, C, *spatial]")
    check_float(op, "x", x)


def check_samples(op: str, name: str, tensor: Tensor) -> None:
    """``tensor`` must be [N, ...], with at least one more axis, of a floating-point type."""
    check_tensor(op, name, tensor)
    if tensor.dim() < 2:
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}, expected [N, ...] with two axes or more")
    check_float(op, name, tensor)


def check_operand(
    op: str, name: str, operand: Tensor, shape: Sequence[int], x: Tensor, *, name_of_x: str = "x"
) -> None:
    """``operand`` must be a tensor of ``shape``, of a floating-point type and on the device of ``x``."""
    # Not by calls of other checks: every op checks several operands.
    if not isinstance(operand, Tensor):
        raise _no_tensor(op, name, operand)
    if operand.shape != shape:
        raise ValueError(
            f"{op}: {name} has shape {list(operand.shape)}, expected {list(shape)} for {name_of_x} of shape"
            f" {list(x.shape)}"
        )
    if operand.dtype not in FLOAT_TYPES:
        raise _not_float(op, name, operand)
    if operand.device != x.device:
        raise ValueError(f"{op}: {name} is on {operand.device} and {name_of_x} on {x.device}, expected one device")


def check_strength(op: str, strength: Tensor, x: Tensor) -> None:
    """``strength`` must have one number per channel of ``x``, or one for all."""
    if not isinstance(strength, Tensor):
        raise _no_tensor(op, "strength", strength)
    if strength.dim() and strength.shape != x.shape[1:2]:
        raise ValueError(
            f"{op}: strength has shape {list(strength.shape)}, expected [] or {[x.shape[1]]} for x of shape"
            f" {list(x.shape)}"
        )
    check_operand(op, "strength", strength, strength.shape, x)


def check_activation(op: str, act: str, negative_slope: float, *, allowed: Sequence[str] = ACTIVATIONS) -> None:
    if act not in allowed:
        raise ValueError(f"{op}: act is {act!r}, expected one of {', '.join(map(repr, allowed))}")
    if not 0 <= negative_slope < math.inf:
        raise ValueError(f"{op}: negative_slope is {negative_slope}, expected a finite number of at least 0")


def check_images(op: str, x: Tensor) -> None:
    """``x`` must be [N, C, H, W] of a floating-point type."""
    check_tensor(op, "x", x)
    if x.dim() != 4:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected [N, C, H, W]")
    check_float(op, "x", x)


def check_fir_kernel(op: str, name: str, kernel: Tensor | None, x: Tensor) -> None:
    """A FIR kernel must be [kh, kw] or [k] and not require a gradient, or be ``None``."""
    if kernel is None:
        return
    check_tensor(op, name, kernel)
    if kernel.dim() not in (1, 2) or kernel.numel() == 0:
        raise ValueError(f"{op}: {name} has shape {list(kernel.shape)}, expected [kh, kw] or [k] of at least 1")
    check_operand(op, name, kernel, kernel.shape, x)
    if kernel.requires_grad:
        raise ValueError(f"{op}: {name} requires a gradient, expected a constant: use {name}.detach()")


def factors(op: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """A factor of resampling as (x, y)."""
    pair = [value] * 2 if isinstance(value, Integral) else value
    if not _are_integers(pair, 2) or min(pair) < 1:
        raise ValueError(f"{op}: {name} is {value!r}, expected an integer of at least 1 or two of them, (x, y)")
    return int(pair[0]), int(pair[1])


def paddings(op: str, value: int | Sequence[int]) -> list[int]:
    """A padding as [left, right, top, bottom]."""
    pads = [value] * 4 if isinstance(value, Integral) else value
    if _are_integers(pads, 2):
        pads = [pads[0], pads[0], pads[1], pads[1]]
    if not _are_integers(pads, 4):
        raise ValueError(f"{op}: padding is {value!r}, expected an integer, (x, y) or (left, right, top, bottom)")
    return [int(p) for p in pads]


def _are_integers(values: object, count: int) -> bool:
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return False
    return all(isinstance(value, Integral) for value in values)


def check_eps(op: str, eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"{op}: eps is {eps}, expected a finite number of at least 0")


def check_float(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOAT_TYPES:
        raise _not_float(op, name, tensor)


def _no_tensor(op: str, name: str, value: object) -> TypeError:
    return TypeError(f"{op}: {name} is a {type(value).__name__}, expected a tensor")


def _not_float(op: str, name: str, tensor: Tensor) -> TypeError:
    return TypeError(f"{op}: {name} is {tensor.dtype}, expected float16, bfloat16, float32 or float64")

"""What the public functions refuse, in one sentence each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan_kernels.activation import ACTIVATIONS

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_feature_map(op: str, x: Tensor) -> None:
    """``x`` must be [N, C, *spatial] of a floating-point type."""
    if x.dim() < 2:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected [N, C, *spatial]")
    check_float(op, "x", x)


def check_samples(op: str, name: str, tensor: Tensor) -> None:
    """``tensor`` must be [N, ...], with an axis beside that of the samples, of a floating-point type."""
    if tensor.dim() < 2:
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}, expected [N, ...] with two axes or more")
    check_float(op, name, tensor)


def check_operand(
    op: str, name: str, operand: Tensor, shape: Sequence[int], x: Tensor, *, name_of_x: str = "x"
) -> None:
    """``operand`` must have ``shape``, a floating-point type and the device of ``x``."""
    if list(operand.shape) != list(shape):
        raise ValueError(
            f"{op}: {name} has shape {list(operand.shape)}, expected {list(shape)} for {name_of_x} of shape"
            f" {list(x.shape)}"
        )
    check_float(op, name, operand)
    if operand.device != x.device:
        raise ValueError(f"{op}: {name} is on {operand.device} and {name_of_x} on {x.device}, expected one device")


def check_strength(op: str, strength: Tensor, x: Tensor) -> None:
    """``strength`` must be a number for each channel of ``x`` or one for all."""
    if strength.dim() and list(strength.shape) != [x.shape[1]]:
        raise ValueError(
            f"{op}: strength has shape {list(strength.shape)}, expected [] or {[x.shape[1]]} for x of shape"
            f" {list(x.shape)}"
        )
    check_operand(op, "strength", strength, strength.shape, x)


def check_activation(op: str, act: str, negative_slope: float) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"{op}: act is {act!r}, expected one of {', '.join(map(repr, ACTIVATIONS))}")
    if not 0 <= negative_slope < math.inf:
        raise ValueError(f"{op}: negative_slope is {negative_slope}, expected a finite number of at least 0")


def check_eps(op: str, eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"{op}: eps is {eps}, expected a finite number of at least 0")


def check_float(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOAT_TYPES:
        raise TypeError(f"{op}: {name} is {tensor.dtype}, expected float16, bfloat16, float32 or float64")

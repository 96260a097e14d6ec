"""Bias, activation, gain and clamp: ``torch_utils.ops.bias_act``."""

import functools
import math
from typing import Any

from torch import Tensor

import fastgan_kernels
from fastgan.dropin.arguments import implementation
from fastgan_kernels.checks import check_tensor


class _Settings(dict[str, Any]):
    """Read as attributes and as entries, as repositories do both."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"an activation has no {name!r}") from None


def _activation(name: str, def_alpha: float = 0, def_gain: float = 1) -> _Settings:
    func = functools.partial(_activate, name)
    return _Settings(func=func, def_alpha=def_alpha, def_gain=def_gain)


def _activate(name: str, x: Tensor, alpha: float | None = None, **_: Any) -> Tensor:
    return bias_act(x, act=name, alpha=alpha, gain=1)


activation_funcs = {
    "linear": _activation("linear"),
    "relu": _activation("relu", def_gain=math.sqrt(2)),
    "lrelu": _activation("lrelu", def_alpha=0.2, def_gain=math.sqrt(2)),
    "tanh": _activation("tanh"),
    "sigmoid": _activation("sigmoid"),
    "elu": _activation("elu"),
    "selu": _activation("selu"),
    "softplus": _activation("softplus"),
    "swish": _activation("swish", def_gain=math.sqrt(2)),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """Adds a bias along one axis, applies an activation, multiplies by a gain and clamps; differentiable twice.

    Args:
        x: any shape, any floating-point type.
        b: [x.shape[dim]], or None, for which ``dim`` is ignored.
        act: a key of ``activation_funcs``.
        alpha: slope of ``"lrelu"`` below zero, at least 0; None for 0.2.
        gain: above 0; None for sqrt(2) with ``"relu"``, ``"lrelu"`` and ``"swish"``, else 1.
        clamp: limits the output to [-clamp, clamp]; at least 0, or None.
        impl: ``"cuda"`` for the fused op, ``"ref"`` for plain torch.
    """
    check_tensor("bias_act", "x", x)
    defaults = activation_funcs.get(act, activation_funcs["linear"])
    alpha = defaults.def_alpha if alpha is None or act != "lrelu" else alpha
    gain = defaults.def_gain if gain is None else gain
    if b is None:
        dim = min(1, x.dim())
    elif not 0 <= dim < x.dim():
        raise ValueError(f"bias_act: dim is {dim}, expected an axis of x of shape {list(x.shape)}, counted from 0")
    # The op has the channels at axis 1. Without a copy, unless axes before them are to be merged across a gap.
    planes = x if dim == 1 and x.dim() > 1 else x.flatten(0, dim - 1) if dim > 1 else x.unsqueeze(0)
    if planes.dim() == 1:
        planes = planes.unsqueeze(0)
    with implementation("bias_act", impl):
        y = fastgan_kernels.bias_act(planes, b, act=act, negative_slope=alpha, gain=gain, clamp=clamp)
    return y if planes is x else y.reshape(x.shape)


def _init() -> bool:
    """Scripts call it to build their extension ahead; there is nothing to build."""
    return True

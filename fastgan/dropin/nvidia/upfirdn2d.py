"""FIR resampling of images: ``torch_utils.ops.upfirdn2d``."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastgan_kernels
from fastgan.dropin.arguments import implementation
from fastgan_kernels.checks import factors, paddings

# An integer, or [x, y].
_Pair = int | Sequence[int]


def setup_filter(
    f: Any,
    device: torch.device | str = torch.device("cpu"),  # noqa: B008 (the signature of the original)
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Makes a filter for :func:`upfirdn2d`, float32 [height, width] or [taps], from a tensor, array or list.

    Args:
        f: [height, width], [taps], one number, or None for the identity.
        normalize: divide by the sum, so that constant images do not change.
        gain: gain of the whole filter in two dimensions.
        separable: whether [taps] stays one-dimensional; None for filters of 8 or more taps.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if taps.dim() > 2 or taps.numel() == 0:
        raise ValueError(f"setup_filter: f has shape {list(taps.shape)}, expected [height, width], [taps] or []")
    taps = taps.reshape(1) if taps.dim() == 0 else taps
    if separable is None:
        separable = taps.dim() == 1 and taps.numel() >= 8
    if separable and taps.dim() == 2:
        raise ValueError(f"setup_filter: separable is True, but f has shape {list(taps.shape)}, expected [taps]")
    if taps.dim() == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(tuple(range(taps.dim())))
    return (taps * gain ** (taps.dim() / 2)).to(device)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: _Pair = 1,
    down: _Pair = 1,
    padding: _Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Inserts zeros, pads or crops, convolves each channel with a filter, and keeps every ``down``-th pixel.

    Differentiable to any order in ``x``.

    Args:
        x: [N, C, H, W], any floating-point type.
        f: constant float32, [height, width], [taps] for a separable filter, or None for the identity.
        up, down: factors: one number or [x, y].
        padding: padding of the image after zero insertion: one number, [x, y] or [x before, x after, y before,
            y after]; negative numbers crop.
        flip_filter: correlate instead of convolving.
        gain: factor of the output.
        impl: ``"cuda"`` for the fused op, ``"ref"`` for plain torch.
    """
    with implementation("upfirdn2d", impl):
        return fastgan_kernels.upfirdn2d(x, f, up=up, down=down, padding=padding, gain=gain, flip=flip_filter)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: _Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """:func:`upfirdn2d` that keeps the size; ``padding`` is added to that."""
    pads = pad_for_filter(padding, f)
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: _Pair = 2,
    padding: _Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """:func:`upfirdn2d` to ``up`` times the size with the same brightness; ``padding`` is added to that."""
    factors = _parse_scaling(up)
    pads = pad_for_filter(padding, f, up=factors)
    gain = gain * factors[0] * factors[1]
    return upfirdn2d(x, f, up=factors, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: _Pair = 2,
    padding: _Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """:func:`upfirdn2d` to 1/``down`` of the size; ``padding`` is added to that."""
    factors = _parse_scaling(down)
    pads = pad_for_filter(padding, f, down=factors)
    return upfirdn2d(x, f, down=factors, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def pad_for_filter(
    padding: _Pair, f: Tensor | None, up: tuple[int, int] = (1, 1), down: tuple[int, int] = (1, 1)
) -> list[int]:
    """``padding``, and what keeps the image in place under a filter that goes up or down."""
    pads = _parse_padding(padding)
    for axis, taps in enumerate(_get_filter_size(f)):
        pads[2 * axis] += (taps + up[axis] - down[axis]) // 2
        pads[2 * axis + 1] += (taps - max(up[axis], down[axis])) // 2
    return pads


# Forks of the repositories call the functions from here on, too.


def _get_filter_size(f: Tensor | None) -> tuple[int, int]:
    """Width and height."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


_parse_scaling = functools.partial(factors, "upfirdn2d", "scaling")  # as x and y
_parse_padding = functools.partial(paddings, "upfirdn2d")  # as x before, x after, y before, y after


def _init() -> bool:
    """Scripts call it to build their extension ahead; there is nothing to build."""
    return True

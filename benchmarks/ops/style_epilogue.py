"""The layers after each convolution of a StyleGAN block: noise, bias, leaky ReLU and AdaIN, in the paper's order."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Operands, Shape, Shapes, Traffic, in_layouts, pixels
from benchmarks.ops.adain import PROBLEMS, batch_norm
from fastgan_kernels import reference


def _operands(shape: Shape, **_: Any) -> Shapes:
    n, c, *spatial = shape
    return {"x": shape, "scale": (n, c), "shift": (n, c), "noise": (n, 1, *spatial), "strength": (c,), "bias": (c,)}


def _on_a_grid(t: Operands, *, order: str = "paper", eps: float = 1e-5, **_: Any) -> Operands:
    """Operands that keep the activation's input away from its kink.

    In the paper's order that input is x + strength * noise + bias, here always an odd number of sixteenths.
    """
    on_grid = {
        "x": (t["x"] * 4).round().clamp(-20, 20) / 8 + 1 / 16,
        "scale": (t["scale"] * 4).round().clamp(-12, 12) / 8 + 9 / 16,
        "shift": t["shift"],
        "noise": (t["noise"] * 3).round().clamp(-9, 9) / 4,
        "strength": (t["strength"] * 2).round().clamp(-4, 4) / 2,
        "bias": (t["bias"] * 4).round().clamp(-12, 12) / 8,
    }
    if order == "tutorial" and on_grid["x"].numel():
        on_grid["shift"] = _clear_of_the_kink(**on_grid, eps=eps)
    return on_grid


def _clear_of_the_kink(
    x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor, *, eps: float
) -> Tensor:
    """Picks each plane's shift, for the tutorial's order, where the activation's input is scale * xh + shift.

    Of the shifts in [-1, 1], which leave both signs in a plane, it is the one that keeps the input farthest from the
    kink, in this batch and in one of copies of its first sample.
    """
    styled = []
    for sample in (x, x[:1].expand(x.shape)):
        p = reference.noise_injection(sample, strength, noise).reshape(*scale.shape, -1) + bias[:, None]
        deviation = p - p.mean(2, keepdim=True)
        variance = deviation.square().mean(2, keepdim=True)
        styled.append(scale[:, :, None] * deviation * (variance + eps).rsqrt())
    both = torch.cat(styled, dim=2)
    best, distance = torch.zeros_like(scale), torch.zeros_like(scale)
    for candidate in torch.arange(-64, 65) / 64:
        least = (both + candidate).abs().amin(2)
        best, distance = torch.where(least > distance, candidate, best), torch.maximum(least, distance)
    # Rounding errors in float32 are a thousand times smaller.
    assert distance.min() > 1 / 512
    return best


def _in_its_type(x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
    y = x + strength[:, None, None] * noise + bias[:, None, None]
    return batch_norm(F.leaky_relu(y, 0.2), scale, shift)


_REGISTERS, _LOOP, _SPANS = (16, 128, 64, 64), (8, 32, 256, 256), (2, 16, 1024, 1024)
_DRAWN = ("noise",)

OP = Op(
    name="style_epilogue",
    operands=_operands,
    arrange=_on_a_grid,
    data=("noise",),
    # Backward reads the shift only where the activation comes last.
    reads={"backward": ("dy", "x", "scale", "noise", "strength", "bias")},
    # Penalties do not differentiate through the generator, so the second order is not measured.
    passes=("forward", "backward"),
    # The gradients of bias and strength are sums over samples too.
    reduction=lambda shape: shape[0] * pixels(shape),
    # In the tutorial's order the normalization removes the bias: its gradient is a sum that cancels to 0.
    sums_gradient_of_x=("bias",),
    # All operands except the shift, and two float32 statistics per plane.
    saved=lambda t: [*(t[name] for name in t if name not in ("shift", "y")), 8 * math.prod(t["x"].shape[:2])],
    problems=PROBLEMS,
    torch_functions={"in_its_type": _in_its_type},
    # Forward rounds a product, two sums, the activation and the normalization; backward as many, and four more sums.
    roundings=14,
    # Half of the drawn problems have the tutorial's order; test_style_epilogue.py has its gradgradcheck.
    choices={
        "act": ("linear", "relu", "lrelu"),
        "negative_slope": (0.0, 0.2, 1.7),
        "order": ("paper", "tutorial"),
        "eps": (1e-5, 1e-3),
    },
    # One pixel; several planes per block, of several samples; spans, in both layouts and all types.
    shapes=((1, 1, 1), (3, 2, 2, 3), (2, 5, 13, 11), (1, 2, 4097), (1, 1, 16385), (1, 33, 31, 37)),
    drawn=((20, 20), ((1, 4), 20, 40), ((1, 3), 12, 7, 7), ((1, 2), 5, 4, 4, 4)),
    highest_order=2,
    compiled=(
        # Noise, bias and activation, which adain lacks; before the normalization in every regime, then after it.
        *(Call(shape, F32, absent=_DRAWN) for shape in ((64, 512, 4, 4), _REGISTERS, _LOOP, _SPANS)),
        *(Call(shape, BF16, absent=_DRAWN) for shape in ((8, 64, 101, 103), (8, 64, 128, 128))),
        *(Call(shape, F32, True, absent=_DRAWN) for shape in ((16, 256, 32, 32), (8, 64, 128, 128))),
        Call((16, 513, 8, 8), BF16, True, absent=_DRAWN),
        Call((8, 64, 128, 128), F64, absent=_DRAWN),
        Call((2, 16, 8192, 8200), BF16, absent=_DRAWN),
        *(Call((8, 64, 128, 128), F16, last, settings={"order": "tutorial"}) for last in (False, True)),
        Call(_SPANS, F32, settings={"act": "relu"}, constant=("x", "noise")),
    ),
    traffic=(
        # Planes that stay in registers. With more than 16 channels the noise is a small operand (traffic.SMALL), whose
        # repeated reads, from L2, do not count.
        Traffic(1.02, 1.25, in_layouts([(1, 20, 128, 128), (2, 17, 101, 103)], [(16, 64, 16, 16)], F32)),
        Traffic(1.02, 1.25, (Call((4, 64, 64, 64), BF16),)),
        Traffic(1.5, 1.75, (Call((1, 18, 256, 256), BF16),)),
        Traffic(1.51, 1.75, (Call((1, 17, 257, 255), BF16),)),
        # Few planes are cut into many spans, as in adain.
        Traffic(1.5, 1.75, (Call((1, 32, 96, 96), F32, True), Call((8, 64, 32, 32), BF16, True)), apart=0.13),
        # Small planes, each with two partial sums for the gradients of bias and strength.
        Traffic(1.02, 1.25, (Call((16, 256, 8, 8), F32),), apart=0.035),
        # Few channels, so every read of the noise counts: two per channel.
        Traffic(2.23, 2.47, (Call((1, 4, 256, 256), F32),)),
    ),
)

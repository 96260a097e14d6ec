import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference
from tests.kernels.harness import random
from tests.kernels.opspec import Bars, Function, OpSpec, Problem, Traffic, nbytes, pixels, sizes

_EPS = (1e-5, 1e-3)


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    """Values exact in bfloat16, so that no type comes to another side of the activation's kink.

    In the paper's order its input is x + strength * noise + bias, an odd number of sixteenths.
    """
    n, c, *spatial = shape
    x = (random(shape, 1) * 4).round().clamp(-20, 20) / 8 + 1 / 16
    scale = (random((n, c), 2) * 4).round().clamp(-12, 12) / 8 + 9 / 16
    noise = (random((n, 1, *spatial), 3) * 3).round().clamp(-9, 9) / 4
    strength = (random((c,), 4) * 2).round().clamp(-4, 4) / 2
    bias = (random((c,), 5) * 4).round().clamp(-12, 12) / 8
    shift = _shift_clear_of_the_kink(x, scale, noise, strength, bias)
    return [x, scale, shift, noise, strength, bias]


def _shift_clear_of_the_kink(x: Tensor, scale: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
    """In the tutorial's order the input is scale * xh + shift: of some shifts for each plane the one farthest from it.

    Within [-1, 1], so that planes pass the kink; for every eps of the tests, and with the first sample for all too.
    """
    if x.numel() == 0:
        return torch.ones_like(scale)
    styled = []
    for sample in (x, x[:1].expand(x.shape)):
        p = reference.noise_injection(sample, strength, noise).reshape(*scale.shape, -1) + bias[:, None]
        deviation = p - p.mean(2, keepdim=True)
        variance = deviation.square().mean(2, keepdim=True)
        styled += [scale[:, :, None] * deviation * (variance + eps).rsqrt() for eps in _EPS]
    styled = torch.cat(styled, dim=2)
    best, distance = torch.zeros_like(scale), torch.zeros_like(scale)
    for shift in torch.arange(-64, 65) / 64:
        least = (styled + shift).abs().amin(2)
        best, distance = torch.where(least > distance, shift, best), torch.maximum(least, distance)
    # Rounding in float32 is a thousand times less.
    assert distance.min() > 1 / 512
    return best


def _of_six(f: Function) -> Function:
    def styled(
        x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor, **settings: Any
    ) -> Tensor:
        return f(x, scale, shift, noise=noise, strength=strength, bias=bias, **settings)

    return styled


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    x, scale, shift, noise, strength, bias = inputs
    seed = torch.tensor([2**40 + 1], device=x.device)
    ops = torch.ops.fastgan
    paper, tutorial = ("lrelu", 0.2, "paper", 1e-5), ("relu", 0.2, "tutorial", 1e-5)
    one_strength = strength.detach()[0].requires_grad_()
    _, mean, rstd = ops.style_epilogue.default(*(t.detach() for t in inputs[:4]), None, *inputs[4:], *paper)
    g = random(x.shape, 6, x.dtype).requires_grad_()
    mean, rstd = mean.detach(), rstd.detach()
    saved_drawn = x, scale, shift, None, seed, one_strength, bias, mean, rstd
    saved_bare = x, scale, None, None, None, None, None, mean, rstd
    backward = ops.style_epilogue_backward.default
    return [
        (ops.style_epilogue.default, (x, scale, shift, noise, None, strength, bias, *paper)),
        (ops.style_epilogue.default, (x, scale, shift, None, seed, one_strength, None, *tutorial)),
        (ops.style_epilogue.default, (x, scale, shift, None, None, None, None, *paper)),
        (backward, (g, x, scale, None, noise, None, strength, bias, mean, rstd, *paper, *(True,) * 6)),
        (backward, (g, *saved_drawn, *tutorial, True, False, True, False, True, True)),
        (backward, (g, *saved_bare, *paper, False, True, True, False, False, False)),
    ]


SPEC = OpSpec(
    name="style_epilogue",
    inputs=_inputs,
    settings=st.fixed_dictionaries(
        {
            "act": st.sampled_from(["linear", "relu", "lrelu"]),
            "negative_slope": st.sampled_from([0.0, 0.2, 1.7]),
            "order": st.sampled_from(["paper", "tutorial"]),
            "eps": st.sampled_from(_EPS),
        }
    ),
    # The drawn problems take the tutorial's order as often; test_style_epilogue.py has its gradgradcheck.
    fixed_settings=({},),
    # The gradients of bias and strength are sums over samples too.
    reduction=lambda shape: shape[0] * pixels(shape),
    # Of the bias, which in the tutorial's order the normalisation takes out: the sum is 0, its summands are not.
    sums_gradient_of_x=(5,),
    # A pixel; several planes a block, of several samples; spans, in both layouts and all types.
    shapes=((1, 1, 1), (3, 2, 2, 3), (2, 5, 13, 11), (1, 2, 4097), (1, 1, 16385), (1, 33, 31, 37)),
    registered=_registered,
    drawn_shapes=st.one_of(
        st.tuples(sizes(20), sizes(20)),
        st.tuples(st.integers(1, 4), sizes(20), sizes(40)),
        st.tuples(st.integers(1, 3), sizes(12), sizes(7), sizes(7)),
        st.tuples(st.integers(1, 2), sizes(5), sizes(4), sizes(4), sizes(4)),
    ),
    # All but the shift.
    saved=lambda inputs, y: nbytes(*inputs) - nbytes(inputs[2]) + 2 * 4 * math.prod(y.shape[:2]),
    op=_of_six(fastgan_kernels.style_epilogue),
    reference=_of_six(reference.style_epilogue),
)

F32, BF16 = torch.float32, torch.bfloat16


def _operands(x: Tensor) -> list[Tensor]:
    n, c, *spatial = x.shape
    sizes = (n, c), (n, c), (n, 1, *spatial), (c,), (c,)
    scale, shift, noise, strength, bias = (torch.ones(size, dtype=x.dtype) for size in sizes)
    return [*(t.requires_grad_() for t in (scale, shift)), noise, *(t.requires_grad_() for t in (strength, bias))]


TRAFFIC = Traffic(
    operands=_operands,
    # The shift only where the activation comes last.
    read_by_backward=lambda x, operands, y: [x, operands[0], *operands[2:]],
    bars=(
        # Planes that stay in registers, of maps with more than 16 channels: below, every plane's read of the noise
        # counts, although it comes from L2.
        Bars(
            1.02,
            1.25,
            (
                Problem((4, 64, 64, 64), BF16),
                Problem((1, 20, 128, 128), F32),
                Problem((2, 17, 101, 103), F32),
                Problem((4, 64, 32, 32), F32, True),
            ),
        ),
        Bars(1.5, 1.75, (Problem((1, 18, 256, 256), BF16), Problem((8, 64, 32, 32), BF16, True))),
        Bars(1.51, 1.75, (Problem((1, 17, 257, 255), BF16),)),
        # As in adain, few planes are cut into many spans.
        Bars(1.5, 1.75, (Problem((1, 32, 96, 96), F32, True),), apart=0.08),
        # Small planes: two sums of each, partials of the gradients of bias and strength.
        Bars(1.02, 1.25, (Problem((16, 256, 8, 8), F32),), apart=0.035),
        # Few channels: the noise counts as often as it is read, twice for each channel.
        Bars(2.23, 2.47, (Problem((1, 4, 256, 256), F32),)),
    ),
)

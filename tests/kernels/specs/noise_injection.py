from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference
from tests.kernels.harness import random
from tests.kernels.opspec import Bars, Function, OpSpec, Problem, Traffic, nbytes, sizes


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    n, c, *spatial = shape
    return [random(shape, 1), random((c,), 2), random((n, 1, *spatial), 3)]


def _with_one_strength_or_many(f: Function) -> Function:
    def either(x: Tensor, strength: Tensor, noise: Tensor, *, per_channel: bool = True) -> Tensor:
        return f(x, strength if per_channel else strength[0], noise)

    return either


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    x, strength, noise = inputs
    g = random(x.shape, 4, x.dtype).requires_grad_()
    seed = torch.tensor([2**40 + 1], device=x.device)
    ops = torch.ops.fastgan
    return [
        (ops.noise_injection.default, (x, strength, noise, None)),
        (ops.noise_injection.default, (x, strength[0], None, seed)),
        (ops.noise_injection_backward.default, (g, strength, noise, None, True, True, True)),
        (ops.noise_injection_backward.default, (g, strength[0], noise, None, False, True, True)),
        (ops.noise_injection_backward.default, (g, None, None, seed, True, True, False)),
        (ops.noise_injection_backward.default, (g, strength, None, None, True, False, True)),
        (ops.normal_noise.default, (seed, x)),
    ]


SPEC = OpSpec(
    name="noise_injection",
    inputs=_inputs,
    settings=st.fixed_dictionaries({"per_channel": st.booleans()}),
    fixed_settings=({},),
    # The strength's gradient is a sum over samples and pixels, and over channels where there is one for all.
    reduction=lambda shape: torch.Size(shape).numel(),
    # A pixel; channels alone; a tile, one more and one less pixel; several blocks of channels and of pixels.
    shapes=((1, 1), (300, 37), (2, 3, 1, 1), (1, 2, 1025), (3, 2, 1023), (2, 35, 13, 11)),
    registered=_registered,
    # The interpreter takes milliseconds for each block of pixels and channels.
    drawn_shapes=st.one_of(
        st.tuples(sizes(40), sizes(40)),
        st.tuples(st.integers(1, 3), sizes(20), sizes(70)),
        st.tuples(st.integers(1, 3), sizes(20), sizes(9), sizes(9)),
        st.tuples(st.integers(1, 3), sizes(5), sizes(4), sizes(4), sizes(4)),
    ),
    saved=lambda inputs, y: nbytes(*inputs[1:]),
    passes_gradient_on=True,
    op=_with_one_strength_or_many(fastgan_kernels.noise_injection),
    reference=_with_one_strength_or_many(reference.noise_injection),
)

F32, BF16 = torch.float32, torch.bfloat16


def _operands(x: Tensor) -> list[Tensor]:
    n, c, *spatial = x.shape
    return [torch.ones(c, dtype=x.dtype, requires_grad=True), torch.ones(n, 1, *spatial, dtype=x.dtype)]


TRAFFIC = Traffic(
    operands=_operands,
    # The gradient of x is dy itself.
    read_by_backward=lambda x, operands, y: [operands[1]],
    bars=(
        # Rows of pixels, aligned and not, and few channels, where the noise is as large as the rest.
        Bars(
            1.02,
            1.02,
            (
                Problem((1, 2, 512, 512), F32),
                Problem((16, 64, 32, 32), BF16),
                Problem((3, 13, 101, 103), F32),
                Problem((6, 13, 101, 103), BF16),
                Problem((8, 3, 128, 128), F32, True),
                Problem((16, 3, 128, 128), BF16, True),
            ),
        ),
        # Small problems are cut fine, and every program leaves a partial sum of each channel; backward reads one tensor
        # and no more, so they weigh more.
        Bars(
            1.02,
            1.02,
            (Problem((4, 64, 32, 32), F32, True), Problem((8, 64, 32, 32), BF16, True), Problem((64, 512, 4, 4), F32)),
            apart=0.13,
        ),
    ),
)

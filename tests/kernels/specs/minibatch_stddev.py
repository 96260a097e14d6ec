from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Shape, Traffic, nbytes, sizes


def _even_channels(shape: Sequence[int]) -> Shape:
    n, c, *spatial = shape
    return n, c + c % 2, *spatial


def _appended(shape: Sequence[int]) -> Shape:
    n, c, *spatial = _even_channels(shape)
    return n, c + 1, *spatial


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    # bfloat16 values: every type gets the same problem.
    return [random(shape, 1).bfloat16().double()]


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (x,) = inputs
    n, c, *spatial = x.shape
    settings = (4, 2)
    ops = torch.ops.fastgan
    dy = random((n, c + 2, *spatial), 2, x.dtype)
    v = random(x.shape, 3, x.dtype)
    _, sums = ops.minibatch_stddev_backward.default(dy, x.detach(), *settings)
    # Without gradients: the op refuses to have any.
    second = v, x.detach(), sums, *settings
    return [
        (ops.minibatch_stddev.default, (x, *settings)),
        (ops.minibatch_stddev_backward.default, (dy.requires_grad_(), x, *settings)),
        (ops.minibatch_stddev_double_backward.default, (*second, True)),
        (ops.minibatch_stddev_double_backward.default, (*second, False)),
    ]


SPEC = OpSpec(
    name="minibatch_stddev",
    inputs=_inputs,
    settings=st.fixed_dictionaries(
        {"group_size": st.sampled_from([1, 2, 3, 4, 5, 8, 1000]), "num_channels": st.sampled_from([1, 2])}
    ),
    # The first setting has one appended channel, as output_shape says.
    fixed_settings=({}, {"group_size": 3, "num_channels": 2}),
    reduction=lambda shape: torch.Size(shape).numel(),
    # A sample; fewer members than lanes; a tile and one more; several row tiles; several tiles of the appended channel.
    shapes=((1, 2), (3, 2, 5), (4, 2, 129), (4, 258, 2, 1), (8, 2, 13, 11), (2, 2, 2049)),
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs),
    drawn_shapes=st.one_of(
        st.tuples(sizes(16), sizes(20)),
        st.tuples(sizes(9), sizes(8), sizes(20)),
        st.tuples(sizes(8), sizes(6), sizes(4), sizes(4)),
        st.tuples(sizes(4), sizes(4), sizes(3), sizes(3), sizes(3)),
    ).map(_even_channels),
    adapt=_even_channels,
    output_shape=_appended,
    highest_order=2,
)

F32, BF16 = torch.float32, torch.bfloat16

TRAFFIC = Traffic(
    operands=lambda x: [],
    read_by_backward=lambda x, operands, y: [x],
    bars=(
        Bars(
            1.02,
            1.02,
            (
                Problem((32, 512, 4, 4), F32),
                Problem((64, 512, 4, 4), BF16),
                Problem((8, 16, 64, 64), F32),
                Problem((6, 13, 101, 103), BF16),
            ),
        ),
        # A row of C + 1 channels starts at no sector, and its last channel, written when all sigmas are known, costs
        # one more: 32 bytes a pixel beside the 2 C elements of x and y.
        Bars(1.03, 1.02, (Problem((32, 512, 4, 4), F32, True), Problem((64, 512, 4, 4), BF16, True))),
        Bars(1.13, 1.09, (Problem((2, 64, 64, 64), BF16, True),)),
    ),
)

"""Noise after every convolution of the StyleGAN generator: one value per sample and pixel, given as a tensor."""

import math

from torch import Tensor

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Shape, Shapes, Traffic, in_layouts
from benchmarks.ops.adain import PROBLEMS

_WIDE, _ODD, _SMALL = (8, 16, 256, 256), (8, 3, 255, 257), (16, 64, 32, 32)
_DRAWN = ("noise",)


def _operands(shape: Shape, *, per_channel: bool = True) -> Shapes:
    strength = shape[1:2] if per_channel else ()
    return {"x": shape, "strength": strength, "noise": (shape[0], 1, *shape[2:])}


def _in_its_type(x: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    return x + strength[:, None, None] * noise


OP = Op(
    name="noise_injection",
    operands=_operands,
    shaping=("per_channel",),
    data=("noise",),
    passes_gradient_on=True,
    reads={"backward": ("dy", "noise")},
    # Penalties do not differentiate through the generator, so the second order is not measured.
    passes=("forward", "backward"),
    # The strength's gradient is a sum over samples and pixels; with one strength for all channels, over channels too.
    reduction=math.prod,
    saved=lambda t: [t["strength"], t["noise"]],
    problems=PROBLEMS,
    torch_functions={"in_its_type": _in_its_type},
    choices={"per_channel": (False, True)},
    # One element; only channels; one pixel; a tile plus one pixel; a tile less one; several blocks along both axes.
    shapes=((1, 1), (300, 37), (2, 3, 1, 1), (1, 2, 1025), (3, 2, 1023), (2, 35, 13, 11)),
    # Small: the interpreter takes milliseconds per block of pixels and channels.
    drawn=((40, 40), ((1, 3), 20, 70), ((1, 3), 20, 9, 9), ((1, 3), 5, 4, 4, 4)),
    compiled=(
        # The noise is drawn by each program if it takes all channels of its pixels, else by a kernel of its own.
        Call(_ODD, BF16, True, absent=_DRAWN),
        *(Call((2, 16, 8192, 8200), F32, last, absent=_DRAWN) for last in (False, True)),
        Call((2**20, 2056), BF16, absent=_DRAWN),
        Call(_WIDE, F64, absent=_DRAWN),
        Call(_WIDE, F16, settings={"per_channel": False}, absent=_DRAWN),
        Call(_SMALL, F32, constant=("strength",)),
    ),
    traffic=(
        # Aligned and unaligned rows of pixels; few channels, where the noise is no small part of the bytes.
        Traffic(1.02, 1.02, in_layouts([(1, 2, 512, 512), (3, 13, 101, 103)], [(8, 3, 128, 128)], F32)),
        Traffic(1.02, 1.02, in_layouts([(16, 64, 32, 32), (6, 13, 101, 103)], [(16, 3, 128, 128)], BF16)),
        # A small problem is cut into many programs, each of which leaves one partial sum per channel. Backward reads
        # only one large tensor, so these sums are a larger share.
        Traffic(1.02, 1.02, in_layouts([(64, 512, 4, 4)], [(4, 64, 32, 32)], F32), apart=0.13),
        Traffic(1.02, 1.02, in_layouts([], [(8, 64, 32, 32)], BF16), apart=0.13),
    ),
)

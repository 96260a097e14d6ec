"""Minibatch standard deviation before the last convolution of StyleGAN's discriminators."""

import math

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Problem, Shape, Traffic, in_layouts


def _even_channels(shape: Shape) -> Shape:
    n, c, *spatial = shape
    return n, c + c % 2, *spatial


OP = Op(
    name="minibatch_stddev",
    operands=lambda shape, **_: {"x": shape},
    reads={"backward": ("dy", "x"), "double_backward": ("x",)},
    penalized=("x",),
    second=("x", "dy"),
    reduction=math.prod,
    highest_order=2,
    saved=lambda t: [t["x"]],
    problems=(
        Problem("stylegan_d_4", (32, 512, 4, 4), "StyleGAN discriminator at 4 px, 32 samples per GPU", key=True),
        Problem("stylegan_d_4_small", (4, 512, 4, 4), "StyleGAN discriminator at 4 px, 4 samples per GPU", key=True),
        Problem("dcgan64_d_32", (128, 128, 32, 32), "DCGAN 64 discriminator, first layer, batch 128"),
    ),
    fixed=({}, {"group_size": 3, "num_channels": 2}),
    choices={"group_size": (1, 2, 3, 4, 5, 8, 1000), "num_channels": (1, 2)},
    # One sample; fewer members than lanes; a tile plus one; several row tiles; several tiles of the appended channel.
    shapes=((1, 2), (3, 2, 5), (4, 2, 129), (4, 258, 2, 1), (8, 2, 13, 11), (2, 2, 2049)),
    drawn=((16, 20), (9, 8, 20), (8, 6, 4, 4), (4, 4, 3, 3, 3)),
    adapt=_even_channels,
    compiled=(
        # Odd rows; more than 2^31 elements; more members than a program holds; a constant dy. Only few, since each call
        # compiles five kernels.
        Call((32, 64, 7, 7), F16, settings={"num_channels": 2}),
        Call((4, 32, 8192, 8200), BF16),
        Call((4, 32, 8192, 8200), F32, True),
        Call((512, 64), F64, settings={"group_size": 512}),
        Call((32, 512, 4, 4), F32, constant=("dy",)),
    ),
    traffic=(
        Traffic(1.02, 1.02, in_layouts([(32, 512, 4, 4), (8, 16, 64, 64)], [], F32)),
        Traffic(1.02, 1.02, in_layouts([(64, 512, 4, 4), (6, 13, 101, 103)], [], BF16)),
        # Rows of C + 1 channels do not start at sectors. The last channel is written later, when all sigmas are known,
        # which costs one more sector: 32 bytes per pixel beside the 2 C elements of x and y.
        Traffic(1.03, 1.02, (Call((32, 512, 4, 4), F32, True), Call((64, 512, 4, 4), BF16, True))),
        Traffic(1.13, 1.09, (Call((2, 64, 64, 64), BF16, True),)),
    ),
)

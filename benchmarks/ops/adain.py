"""AdaIN after every convolution of the StyleGAN generator, and of style transfer networks."""

import math

from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Problem, Traffic, in_layouts, pixels

PROBLEMS = (
    Problem("stylegan_g_1024", (4, 16, 1024, 1024), "StyleGAN generator at 1024 px, 4 samples per GPU", key=True),
    Problem("stylegan_g_128", (4, 128, 128, 128), "StyleGAN generator at 128 px, 4 samples per GPU", key=True),
    Problem("stylegan_g_32", (8, 512, 32, 32), "StyleGAN generator at 32 px, 8 samples per GPU", key=True),
    Problem("stylegan_g_256", (4, 64, 256, 256), "StyleGAN generator at 256 px, 4 samples per GPU"),
    Problem("stylegan_g_64", (4, 256, 64, 64), "StyleGAN generator at 64 px, 4 samples per GPU"),
    Problem("stylegan_g_8", (32, 512, 8, 8), "StyleGAN generator at 8 px, 32 samples per GPU"),
)


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    # Instance normalization is batch normalization of one sample with N * C channels; the style is its affine part.
    planes = x.reshape(1, -1, *x.shape[2:])
    y = F.batch_norm(planes, None, None, scale.reshape(-1), shift.reshape(-1), training=True, eps=1e-5)
    return y.reshape(x.shape)


OP = Op(
    name="adain",
    operands=lambda shape, **_: {"x": shape, "scale": shape[:2], "shift": shape[:2]},
    reads={"backward": ("dy", "x", "scale"), "double_backward": ("dy", "x", "scale")},
    penalized=("x", "scale", "shift"),
    # y is linear in the shift, and no first gradient depends on the shift.
    second=("x", "scale", "dy"),
    reduction=pixels,
    # x, scale, and two statistics of each plane in float32.
    saved=lambda t: [t["x"], t["scale"], 8 * math.prod(t["x"].shape[:2])],
    problems=PROBLEMS,
    torch_functions={"batch_norm": batch_norm},
    fixed=({}, {"eps": 1e-2}),
    choices={"eps": (1e-5, 1e-8, 0.1)},
    # One pixel; two; several planes per block; one plane per block; planes that just fit into registers and that do
    # not; spans of every length; and, channels-last in bfloat16 and float64, one span that does not fit into registers.
    shapes=(
        *((1, 1, 1), (2, 3, 2), (300, 3, 2, 3), (2, 5, 13, 11), (1, 2, 4096)),
        *((1, 2, 4097), (1, 1, 16385), (1, 3, 40001), (1, 33, 31, 37), (2, 17, 23, 41)),
    ),
    highest_order=2,
    compiled=(
        # Planes that share a block, fill a block, stay in registers, are read twice, are cut into spans.
        *in_layouts([(64, 512, 4, 4), (64, 64, 7, 7), (64, 128, 28, 28), (16, 128, 64, 64)], [], F32, BF16),
        *in_layouts([(8, 64, 101, 103), (8, 64, 128, 128), (8, 32, 256, 256), (2, 16, 1024, 1024)], [], F32, BF16),
        *in_layouts([], [(64, 512, 4, 4), (16, 513, 8, 8), (16, 256, 32, 32), (16, 3, 64, 64)], F32, BF16),
        *in_layouts([], [(8, 64, 128, 128)], F32, BF16),
        *in_layouts([(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
        Call((2**11, 2**10, 32, 33), BF16),
        Call((2**17, 2**15, 1, 1), BF16),
        *in_layouts([(16, 256, 32, 32)], [(16, 256, 32, 32)], F16, F64),
        Call((8, 64, 128, 128), F64),
        *(
            Call(shape, F32, constant=constant)
            for shape in ((16, 128, 64, 64), (2, 16, 1024, 1024))
            for constant in (("x",), ("scale",), ("scale", "shift"))
        ),
    ),
    traffic=(
        # Planes that stay in registers.
        Traffic(
            1.02, 1.02, in_layouts([(16, 256, 8, 8), (2, 16, 128, 128), (2, 17, 101, 103)], [(16, 64, 16, 16)], F32)
        ),
        Traffic(1.02, 1.02, in_layouts([(4, 64, 64, 64), (4, 17, 101, 103)], [], BF16)),
        # Longer planes are read twice.
        Traffic(1.5, 1.67, (Call((1, 4, 256, 256), F32), Call((1, 4, 512, 512), BF16), Call((1, 128, 129, 128), F32))),
        # Odd planes: one more sector per tile that does not start at a sector.
        Traffic(1.52, 1.69, (Call((1, 5, 257, 255), F32), Call((1, 9, 257, 255), BF16))),
        # Channels-last, a program takes several planes, so registers hold fewer pixels of each; and few planes are cut
        # into many spans, and the program of each span reads the partials of all.
        Traffic(1.5, 1.67, (Call((8, 64, 32, 32), BF16, True), Call((4, 64, 32, 32), F32, True)), apart=0.13),
        Traffic(1.5, 1.67, (Call((1, 32, 96, 96), F32, True), Call((1, 3, 300, 300), F32, True)), apart=0.13),
    ),
)

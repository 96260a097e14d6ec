"""Bias and leaky ReLU after every convolution of the discriminators."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Operands, Problem, Traffic, in_layouts, pixels
from fastgan_kernels.activation import CURVED_ACTIVATIONS


def _leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(x + bias.view(-1, *(1,) * (x.dim() - 2)), 0.2)


def _on_a_grid(t: Operands, **_: Any) -> Operands:
    # x in odd sixteenths, bias in eighths: their sum is never 0, and exact in bfloat16.
    x, bias = ((t[name] * 4).round().clamp(-20, 20) / 8 for name in ("x", "bias"))
    return {"x": x + 1 / 16, "bias": bias}


_SHAPE = (16, 64, 32, 32)

OP = Op(
    name="bias_act",
    operands=lambda shape, **_: {"x": shape, "bias": shape[1:2]},
    arrange=_on_a_grid,
    reads={"backward": ("dy", "y"), "double_backward": ("y",)},
    # R1 and WGAN-GP use only the gradient in x. The activation is piecewise linear, so only dy gets a second gradient.
    penalized=("x",),
    second=("dy",),
    reduction=lambda shape: shape[0] * pixels(shape),
    saved=lambda t: [t["y"]],
    problems=(
        Problem(
            "stylegan_d_1024", (4, 16, 1024, 1024), "StyleGAN discriminator at 1024 px, 4 samples per GPU", key=True
        ),
        Problem("dcgan64_d_32", (128, 128, 32, 32), "DCGAN 64 discriminator, first layer, batch 128", key=True),
        Problem("sngan28_d_14", (64, 64, 14, 14), "SNGAN discriminator on 28 px, first layer, batch 64", key=True),
        Problem("stylegan_d_256", (4, 64, 256, 256), "StyleGAN discriminator at 256 px, 4 samples per GPU"),
        Problem("dcgan64_d_8", (128, 512, 8, 8), "DCGAN 64 discriminator, third layer, batch 128"),
        Problem("sngan28_d_3", (64, 256, 3, 3), "SNGAN discriminator on 28 px, third layer, batch 64"),
    ),
    torch_functions={"leaky_relu": _leaky_relu},
    fixed=({"act": "lrelu", "gain": 1.5, "clamp": 1.234}, {"act": "relu"}, {"act": "linear", "gain": 0.5}),
    choices={
        "act": ("linear", "relu", "lrelu"),
        "negative_slope": (0.0, 0.2, 1.0, 1.7),
        "gain": (1.0, 1.5, 0.5),
        # No output of the grid of inputs is near one of these, in any type.
        "clamp": (None, 1.234, 1e4),
    },
    # One element; one pixel; a tile plus one; a tile less one; more columns, then more rows, than a tile has.
    shapes=((1, 1), (2, 3, 1, 1), (1, 1025), (3, 2, 1023), (1, 2, 4099), (700, 5), (520, 3, 2, 3), (2, 37, 13, 11)),
    compiled=(
        # Unaligned channels.
        *in_layouts([], [(16, 513, 8, 8)], F32, BF16),
        *in_layouts([(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
        Call((2**20, 2056), BF16),
        *in_layouts([_SHAPE], [], F16, F64),
        *(Call(_SHAPE, F32, settings={"act": act}) for act in ("linear", "relu")),
        Call(_SHAPE, F32, settings={"act": "lrelu", "gain": 2.0**0.5, "clamp": 256.0}),
        *(Call(_SHAPE, F32, settings={"act": act}) for act in CURVED_ACTIVATIONS),
        *(Call(_SHAPE, BF16, True, settings={"act": act, "clamp": 256.0}) for act in ("tanh", "swish")),
        *(Call(_SHAPE, F32, last, absent=("bias",)) for last in (False, True)),
        *(Call(_SHAPE, F32, last, constant=(name,)) for last in (False, True) for name in ("x", "bias")),
    ),
    traffic=(
        # Aligned and unaligned rows of pixels (an odd row of 10,403 elements costs one more sector per tile).
        Traffic(1.02, 1.02, in_layouts([(1, 2, 512, 512), (3, 13, 101, 103)], [(8, 3, 128, 128)], F32)),
        Traffic(1.02, 1.02, in_layouts([(64, 64, 14, 14), (6, 13, 101, 103)], [(16, 3, 128, 128)], BF16)),
        # A small problem is cut into many programs, each of which leaves one partial sum per channel.
        Traffic(1.02, 1.02, in_layouts([(512, 1024)], [(4, 64, 32, 32)], F32), apart=0.04),
        Traffic(1.02, 1.02, in_layouts([], [(8, 64, 32, 32)], BF16), apart=0.04),
    ),
)

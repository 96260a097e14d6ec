"""The norms of a critic's gradients with respect to its input, one per sample, which penalties are computed from."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Operands, Problem, Shape, Traffic, in_layouts

# Gradients have the shape of a batch of images.
PROBLEMS = (
    Problem("stylegan_d_1024", (16, 3, 1024, 1024), "R1 of the StyleGAN discriminator at 1024 px, batch 16", key=True),
    Problem("dcgan64_d", (128, 3, 64, 64), "WGAN-GP of the DCGAN 64 discriminator, batch 128", key=True),
    Problem("wgan_gp_28", (64, 1, 28, 28), "WGAN-GP critic on 28 px, batch 64", key=True),
    Problem("stylegan_d_256", (16, 3, 256, 256), "R1 of the StyleGAN discriminator at 256 px, batch 16"),
)

# One short row; many rows that share a block; several tiles per row; two spans per row.
SHAPES = ((1, 1), (300, 3, 2), (3, 2, 4099), (2, 3, 71, 77))

# Whole rows and rows cut into spans, of even and odd length.
CALLS = (
    *in_layouts([(256, 3, 32, 32)], [(4, 3, 256, 256)], F32),
    *in_layouts([(64, 1, 101, 103), (4, 3, 257, 255)], [(512, 2, 32, 32)], BF16),
)


def with_norms(t: Operands, **_: Any) -> Operands:
    """Norms of about 1/2 and 2 in turn: neither 0 nor near a target of the tests."""
    x = t["gradients"]
    rows = tuple(range(1, x.dim()))
    norms = torch.linalg.vector_norm(x, dim=rows, keepdim=True) if x.numel() else 1.0
    wanted = torch.tensor([0.5, 2.0], dtype=x.dtype, device=x.device).repeat(len(x))[: len(x)]
    return {"gradients": x / norms * wanted.reshape(-1, *(1,) * len(rows))}


def elements_of_a_sample(shape: Shape) -> int:
    return torch.Size(shape[1:]).numel()


def vector_norm(gradients: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradients.float(), dim=(1, 2, 3))


OP = Op(
    name="gradient_norms",
    operands=lambda shape, **_: {"gradients": shape},
    arrange=with_norms,
    reads={"backward": ("dy", "gradients", "y"), "double_backward": ("dy", "gradients", "y")},
    penalized=("gradients",),
    second=("gradients", "dy"),
    reduction=elements_of_a_sample,
    wide_output=True,
    highest_order=2,
    saved=lambda t: [t["gradients"], t["y"]],
    problems=PROBLEMS,
    torch_functions={"vector_norm": vector_norm},
    shapes=SHAPES,
    compiled=(
        # Whole rows; rows cut into spans.
        Call((64, 3, 64, 64), F16),
        Call((16, 3, 257, 255), BF16),
        Call((16, 3, 256, 256), F64),
        # More than 2^31 elements, in long rows and in many rows.
        Call((16, 3, 8192, 8192), F32),
        Call((2**22, 3, 16, 16), F32),
    ),
    traffic=(Traffic(1.02, 1.02, CALLS, apart=0.003),),
)

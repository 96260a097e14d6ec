"""The weights of the discriminators whose spectral norms are measured, and their singular vectors.

A problem's shape lists the channels of four convolutions 4x4, the image's before them, behind which stands a linear
layer to one logit: five weights.
"""

import itertools

from torch import Tensor
from torch.nn import functional as F

from benchmarks.registry import Problem, Shape, elements

LAYERS = 5

PROBLEMS = (
    Problem("sngan28_d", (1, 64, 128, 256, 512), "SNGAN discriminator on 28 px in grey", key=True),
    Problem("dcgan64_d", (3, 128, 256, 512, 1024), "DCGAN 64 discriminator, spectrally normalised", key=True),
    Problem("sngan28_d_small", (1, 16, 32, 64, 128), "SNGAN discriminator of a quarter of the width"),
)
# One only: with its loops over weights this takes Triton's interpreter seconds.
TOY_PROBLEMS = (Problem("toy_4", (1, 2, 4, 2, 4), "none: a size for a CPU", key=True),)

EDGES = ((3, 1, 3, 2, 5), (3, 17, 33, 65, 130))


def weight_shapes(channels: Shape) -> tuple[Shape, ...]:
    convolutions = ((out, into, 4, 4) for into, out in itertools.pairwise(channels))
    return *convolutions, (1, channels[-1])


def operand_shapes(channels: Shape) -> tuple[Shape, ...]:
    """Of the weights, of every u and of every v."""
    shapes = weight_shapes(channels)
    return *shapes, *((rows,) for rows, *_ in shapes), *((elements(rest),) for _, *rest in shapes)


def split(operands: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights, us and vs."""
    return tuple(list(operands[i * LAYERS : (i + 1) * LAYERS]) for i in range(3))


def with_singular_vectors(operands: tuple[Tensor, ...]) -> list[Tensor]:
    """Weights as they come, with u and v near those of the largest singular value, as in training."""
    weights, us, vs = split(operands)
    for weight, u, v in zip(weights, us, vs, strict=True):
        matrix = weight.flatten(1).float()
        wide = v.float()
        for _ in range(10):
            wide_u = F.normalize(matrix @ wide, dim=0)
            wide = F.normalize(matrix.mT @ wide_u, dim=0)
        u.copy_(wide_u)
        v.copy_(wide)
    return [*weights, *us, *vs]

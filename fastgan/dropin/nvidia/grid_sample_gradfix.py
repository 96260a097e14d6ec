"""Bilinear sampling that differentiates twice: ``torch_utils.ops.grid_sample_gradfix``."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastgan.dropin.arguments import check_image, needs_torchs_operators

# Scripts set it, without effect: the sampling always differentiates twice.
enabled = False


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """``torch.nn.functional.grid_sample``: bilinear, zeros outside, corners not aligned.

    Differentiable to any order in ``input`` [N, C, H, W] for a constant ``grid`` [N, height, width, 2]; otherwise as
    often as torch's operator, which is once before torch 2.13.
    """
    check_image("grid_sample", "input", input)
    check_image("grid_sample", "grid", grid)
    if grid.requires_grad or needs_torchs_operators():
        return _sample(input, grid)
    return _Sample.apply(input, grid)


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class _Sample(torch.autograd.Function):
    """Linear in x, and so the derivative of its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(x, grid)
        return _sample(x, grid)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None]:
        x, grid = ctx.saved_tensors
        return _Adjoint.apply(dy, grid, x.detach()), None


class _Adjoint(torch.autograd.Function):
    """Of x it uses shape and layout."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, grid: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        return torch.ops.aten.grid_sampler_2d_backward(dy, x, grid, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(ddx, grid), None, None

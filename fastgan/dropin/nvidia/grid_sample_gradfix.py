"""Bilinear sampling that differentiates twice: ``torch_utils.ops.grid_sample_gradfix``."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastgan.dropin.arguments import needs_torchs_operators

# Scripts set it, without effect: the sampling always differentiates twice.
enabled = False


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """``torch.nn.functional.grid_sample``: bilinear, zeros outside, corners not aligned.

    Differentiable to any order in ``input`` [N, C, H, W] for a constant ``grid`` [N, height, width, 2]; otherwise as
    often as torch's operator, which is once before torch 2.13.
    """
    if grid.requires_grad or needs_torchs_operators():
        return _sample(input, grid)
    return _Sample.apply(input, grid, input.detach(), False)


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class _Sample(torch.autograd.Function):
    """The sampling of ``v``, or its ``adjoint``; each is linear, and the other's derivative.

    The adjoint uses only shape and layout of the image ``like``.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, grid: Tensor, like: Tensor, adjoint: bool) -> Tensor:
        ctx.save_for_backward(grid, like)
        ctx.adjoint = adjoint
        if adjoint:
            return torch.ops.aten.grid_sampler_2d_backward(v, like, grid, 0, 0, False, [True, False])[0]
        return _sample(v, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Sample.apply(gradient, *ctx.saved_tensors, not ctx.adjoint), None, None, None

"""Bias and leaky ReLU: ``op.fused_act``."""

import torch
from torch import Tensor, nn

import fastgan_kernels


class FusedLeakyReLU(nn.Module):
    """A learned bias per channel and :func:`fused_leaky_relu`, for [N, C, ...]."""

    bias: nn.Parameter | None

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope = negative_slope
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def fused_leaky_relu(
    input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """``scale * leaky_relu(input + bias)``, differentiable to any order.

    Args:
        input: [N, C, ...], any floating-point type.
        bias: [C], or None.
        negative_slope: at least 0; also on the CPU, where the original always uses 0.2.
        scale: above 0.
    """
    return fastgan_kernels.bias_act(input, bias, act="lrelu", negative_slope=negative_slope, gain=scale)

"""Layers with an equalized learning rate: weights are scaled in the forward, not at initialization."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EqualizedLinear(nn.Module):
    """A linear layer whose stored weights have the same scale for every width (Karras et al. 2018, section 4.1).

    https://arxiv.org/abs/1710.10196. The layer computes ``x @ (s * weight).T + lr_multiplier * bias`` with
    ``s = lr_multiplier * gain / sqrt(in_features)``. The weights are drawn from N(0, 1 / lr_multiplier^2), so that the
    effective weights start with variance gain^2 / in_features; the bias starts at 0. Adam changes every stored number
    by about the learning rate, whatever the size of its gradient, so all layers learn at the same relative speed, times
    ``lr_multiplier`` (0.01 in the mapping network of StyleGAN; Karras et al. 2019, appendix C).

    The class is not an ``nn.Linear``, because the effective weight differs from the stored one;
    :func:`fastgan.nn.spectral_norm_` does not normalize it.

    Args:
        in_features, out_features: as in ``nn.Linear``.
        bias: whether to add a bias; False before a :class:`BiasAct`.
        gain: sqrt(2) before a leaky ReLU preserves the variance of the signal (He et al. 2015); 1 without activation.
        lr_multiplier: above 0.

    Shape:
        [*, in_features] to [*, out_features].
    """

    bias: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, gain: float = 1.0, lr_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        self.scale = lr_multiplier * gain / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if bias is not None and self.lr_multiplier != 1:
            bias = bias * self.lr_multiplier
        return F.linear(x, self.weight * self.scale, bias)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return (
            f"{in_features}, {out_features}, bias={self.bias is not None}, scale={self.scale:.4g},"
            f" lr_multiplier={self.lr_multiplier}"
        )


class EqualizedConv2d(nn.Module):
    """A convolution with an equalized learning rate, as in :class:`EqualizedLinear`, and zero padding.

    Args:
        in_channels, out_channels, kernel_size, stride: as in ``nn.Conv2d``; the kernel is square with odd size, and the
            padding is ``kernel_size // 2``, so that stride 1 keeps the size and stride 2 halves an even size.
        bias, gain: as in :class:`EqualizedLinear`; the scale is ``gain / sqrt(in_channels * kernel_size^2)``.

    Shape:
        [N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel_size // 2
        self.scale = gain / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        out_channels, in_channels, size, _ = self.weight.shape
        return (
            f"{in_channels}, {out_channels}, kernel_size={size}, stride={self.stride}, bias={self.bias is not None},"
            f" scale={self.scale:.4g}"
        )

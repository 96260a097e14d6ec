"""Bias and activation as one layer."""

import torch
from torch import Tensor, nn

from fastgan_kernels import bias_act


class BiasAct(nn.Module):
    """A learned bias per channel, an activation, a gain and an optional clamp in one fused op.

    It follows a convolution or a linear layer that was made with ``bias=False``.

    Args:
        num_channels: C; ``None`` for no bias.
        act, negative_slope, gain, clamp: as in :func:`fastgan_kernels.bias_act`.

    Shape:
        [N, C, \\*spatial] to the same, in the layout (contiguous or channels-last) of the input.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int | None,
        *,
        act: str = "lrelu",
        negative_slope: float = 0.2,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act = act
        self.negative_slope = negative_slope
        self.gain = gain
        self.clamp = clamp
        self.register_parameter("bias", None if num_channels is None else nn.Parameter(torch.zeros(num_channels)))

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(
            x, self.bias, act=self.act, negative_slope=self.negative_slope, gain=self.gain, clamp=self.clamp
        )

    def extra_repr(self) -> str:
        channels = None if self.bias is None else self.bias.numel()
        clamp = "" if self.clamp is None else f", clamp={self.clamp}"
        return f"{channels}, act={self.act!r}, negative_slope={self.negative_slope}, gain={self.gain}{clamp}"

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
        parameter_name: name of the bias in the module and in checkpoints, for models with another name.

    Shape:
        [N, C, \\*spatial] to the same, in the layout (contiguous or channels-last) of the input.
    """

    def __init__(
        self,
        num_channels: int | None,
        *,
        act: str = "lrelu",
        negative_slope: float = 0.2,
        gain: float = 1.0,
        clamp: float | None = None,
        parameter_name: str = "bias",
    ) -> None:
        super().__init__()
        self.act = act
        self.negative_slope = negative_slope
        self.gain = gain
        self.clamp = clamp
        self.parameter_name = parameter_name
        bias = None if num_channels is None else nn.Parameter(torch.zeros(num_channels))
        self.register_parameter(parameter_name, bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = getattr(self, self.parameter_name)
        return bias_act(x, bias, act=self.act, negative_slope=self.negative_slope, gain=self.gain, clamp=self.clamp)

    def extra_repr(self) -> str:
        bias = getattr(self, self.parameter_name)
        channels = None if bias is None else bias.numel()
        clamp = "" if self.clamp is None else f", clamp={self.clamp}"
        return f"{channels}, act={self.act!r}, negative_slope={self.negative_slope}, gain={self.gain}{clamp}"

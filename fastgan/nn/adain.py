"""Adaptive instance normalization driven by a style vector."""

import torch
from torch import Tensor, nn

from fastgan_kernels import adain


class AdaIN(nn.Module):
    """Instance normalization whose scale and shift are an affine function of a style (Karras et al. 2019, eq. 1).

    One linear layer maps the style to ``2 * num_channels`` numbers, the scale and then the shift. Its biases begin at 1
    and 0, so that a zero style gives plain instance normalization.

    Args:
        num_channels: C.
        style_dim: width of the style vector.
        eps: added to the variance.

    Shape:
        x [N, C, \\*spatial] and style [N, style_dim] to [N, C, \\*spatial].
    """

    def __init__(self, num_channels: int, style_dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.style = nn.Linear(style_dim, 2 * num_channels)
        with torch.no_grad():
            self.style.bias[:num_channels] = 1
            self.style.bias[num_channels:] = 0

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style).chunk(2, dim=1)
        return adain(x, scale, shift, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"

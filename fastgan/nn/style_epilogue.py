"""The layers after each convolution of a StyleGAN block, as one layer."""

import torch
from torch import Tensor, nn

from fastgan.nn.equalized import EqualizedLinear
from fastgan_kernels import style_epilogue


class StyleEpilogue(nn.Module):
    """Noise, bias, activation and AdaIN in one fused op (Karras et al. 2019, figure 1b).

    It follows a convolution that was made with ``bias=False``. One linear layer maps the style to
    ``2 * num_channels`` numbers, the scale and then the shift, beginning at 1 and 0 as in :class:`AdaIN`; the strengths
    of the noise and the bias begin at 0.

    Args:
        num_channels: C.
        style_dim: width of the style vector.
        noise: whether to add noise, with a learned strength for each channel.
        shared_strength: one strength for all channels, as in StyleGAN2.
        bias: whether to add a bias.
        equalized: whether the style's layer is an :class:`EqualizedLinear`, with the same parameters, as in StyleGAN.
        act, negative_slope, order, eps: as in :func:`fastgan_kernels.style_epilogue`.

    Shape:
        x [N, C, \\*spatial], style [N, style_dim] and optionally noise [N, 1, \\*spatial] to [N, C, \\*spatial], in the
        layout (contiguous or channels-last) of x. Without it a standard normal is drawn at every call, in training and
        in evaluation.
    """

    strength: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        style_dim: int,
        *,
        noise: bool = True,
        shared_strength: bool = False,
        bias: bool = True,
        equalized: bool = False,
        act: str = "lrelu",
        negative_slope: float = 0.2,
        order: str = "paper",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.act = act
        self.negative_slope = negative_slope
        self.order = order
        self.eps = eps
        strengths = () if shared_strength else (num_channels,)
        self.register_parameter("strength", nn.Parameter(torch.zeros(strengths)) if noise else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_channels)) if bias else None)
        self.style = (EqualizedLinear if equalized else nn.Linear)(style_dim, 2 * num_channels)
        with torch.no_grad():
            self.style.bias[:num_channels] = 1
            self.style.bias[num_channels:] = 0

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        scale, shift = self.style(style).chunk(2, dim=1)
        return style_epilogue(
            x,
            scale,
            shift,
            noise=noise,
            strength=self.strength,
            bias=self.bias,
            act=self.act,
            negative_slope=self.negative_slope,
            order=self.order,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        return (
            f"noise={self.strength is not None}, bias={self.bias is not None}, act={self.act!r},"
            f" negative_slope={self.negative_slope}, order={self.order!r}, eps={self.eps}"
        )

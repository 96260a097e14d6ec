"""The layers of StyleGAN's generator: AdaIN, noise injection, both in one op with bias and activation, pixel norm."""

import torch
from torch import Tensor, nn

from fastgan.nn.equalized import EqualizedLinear
from fastgan_kernels import adain, noise_injection, pixel_norm, style_epilogue


class AdaIN(nn.Module):
    """Instance normalization whose scale and shift are an affine function of a style (Karras et al. 2019, eq. 1).

    One linear layer maps the style to ``2 * num_channels`` numbers, the scales and then the shifts. Its biases start at
    1 and 0, so that a zero style gives plain instance normalization.

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
        self.style = _style_layer(nn.Linear, num_channels, style_dim)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style).chunk(2, dim=1)
        return adain(x, scale, shift, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class NoiseInjection(nn.Module):
    """Adds noise, equal for all channels of a pixel, times a learned strength (Karras et al. 2019, section 3.2).

    The strengths start at 0, so that training decides where noise is useful.

    Args:
        num_channels: C, for one strength per channel; ``None`` for a single strength, as in StyleGAN2.
        parameter_name: name of the strength in the module and in checkpoints, for models with another name.

    Shape:
        x [N, C, \\*spatial] and optionally noise [N or 1, 1, \\*spatial] to [N, C, \\*spatial]. Without ``noise``,
        standard normal noise is drawn at every call, in training and in evaluation.
    """

    def __init__(self, num_channels: int | None, *, parameter_name: str = "strength") -> None:
        super().__init__()
        self.parameter_name = parameter_name
        strength = nn.Parameter(torch.zeros(() if num_channels is None else (num_channels,)))
        self.register_parameter(parameter_name, strength)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return noise_injection(x, getattr(self, self.parameter_name), noise)

    def extra_repr(self) -> str:
        strength = getattr(self, self.parameter_name)
        return str(strength.numel() if strength.dim() else None)


class StyleEpilogue(nn.Module):
    """Noise, bias, activation and AdaIN in one fused op (Karras et al. 2019, figure 1b).

    It follows a convolution that was made with ``bias=False``. One linear layer maps the style to
    ``2 * num_channels`` numbers, the scales and then the shifts; its biases start at 1 and 0, as in :class:`AdaIN`. The
    noise strengths and the bias start at 0.

    Args:
        num_channels: C.
        style_dim: width of the style vector.
        noise: whether to add noise, with one learned strength per channel.
        shared_strength: one strength for all channels, as in StyleGAN2.
        bias: whether to add a bias.
        equalized: whether the linear layer is an :class:`EqualizedLinear`, as in StyleGAN; names and shapes of the
            parameters do not change.
        act, negative_slope, eps: as in :func:`fastgan_kernels.style_epilogue`.
        order: ``"paper"`` activates before AdaIN, ``"tutorial"`` after.

    Shape:
        x [N, C, \\*spatial], style [N, style_dim] and optionally noise [N, 1, \\*spatial] to [N, C, \\*spatial], in the
        layout (contiguous or channels-last) of x. Without ``noise``, standard normal noise is drawn at every call, in
        training and in evaluation.
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
        self.style = _style_layer(EqualizedLinear if equalized else nn.Linear, num_channels, style_dim)

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


def _style_layer(kind: type[nn.Module], num_channels: int, style_dim: int) -> nn.Module:
    """Makes the linear layer from a style to each channel's scale and shift, which start at 1 and 0."""
    layer = kind(style_dim, 2 * num_channels)
    with torch.no_grad():
        layer.bias[:num_channels] = 1
        layer.bias[num_channels:] = 0
    return layer


class PixelNorm(nn.Module):
    """Divides each pixel's vector of channels by its root mean square (Karras et al. 2018, section 4.2).

    It follows the convolutions of a progressively grown generator, and normalizes the latents [N, C] of a StyleGAN
    mapping network. It has no parameters.

    Args:
        eps: added to the mean square.

    Shape:
        [N, C, \\*spatial] to the same, in the layout of the input.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return pixel_norm(x, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"

"""Pixelwise feature normalization as a layer."""

from torch import Tensor, nn

from fastgan_kernels import pixel_norm


class PixelNorm(nn.Module):
    """Divides the vector of channels of every pixel by its root mean square (Karras et al. 2018, section 4.2).

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

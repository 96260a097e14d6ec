"""The synthesis network: from a style for each layer to an image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.models.stylegan.growing import GrowingNetwork, widths
from fastgan.nn import Blur, EqualizedConv2d, StyleEpilogue

NOISES = ("random", "constant", "none")


class ConstantBlock(nn.Module):
    """The first block: a learned 4x4 constant, epilogue, convolution 3x3, epilogue.

    Shape:
        styles [N, 2, style_dim] to [N, num_channels, 4, 4]; noise as in :class:`SynthesisBlock`.
    """

    def __init__(self, num_channels: int, style_dim: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.ones(1, num_channels, 4, 4))
        self.epilogue_1 = StyleEpilogue(num_channels, style_dim, equalized=True)
        self.conv_2 = _conv(num_channels, num_channels)
        self.epilogue_2 = StyleEpilogue(num_channels, style_dim, equalized=True)

    def forward(self, styles: Tensor, noise_1: Tensor | None = None, noise_2: Tensor | None = None) -> Tensor:
        x = self.constant.expand(styles.shape[0], -1, -1, -1)
        x = self.epilogue_1(x, styles[:, 0], noise_1)
        return self.epilogue_2(self.conv_2(x), styles[:, 1], noise_2)


class SynthesisBlock(nn.Module):
    """Doubles the resolution: nearest x2, convolution 3x3, blur (1, 2, 1), epilogue; convolution 3x3, epilogue.

    Karras et al. 2019, figure 1b and appendix C.

    Shape:
        x [N, in_channels, H, W] and styles [N, 2, style_dim] to [N, out_channels, 2H, 2W]. Each noise is [N, 1, 2H, 2W]
        or ``None`` to draw it.
    """

    def __init__(self, in_channels: int, out_channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv_1 = _conv(in_channels, out_channels)
        self.blur = Blur((1, 2, 1))
        self.epilogue_1 = StyleEpilogue(out_channels, style_dim, equalized=True)
        self.conv_2 = _conv(out_channels, out_channels)
        self.epilogue_2 = StyleEpilogue(out_channels, style_dim, equalized=True)

    def forward(
        self, x: Tensor, styles: Tensor, noise_1: Tensor | None = None, noise_2: Tensor | None = None
    ) -> Tensor:
        x = self.blur(self.conv_1(_enlarged(x)))
        x = self.epilogue_1(x, styles[:, 0], noise_1)
        return self.epilogue_2(self.conv_2(x), styles[:, 1], noise_2)


class Synthesis(GrowingNetwork):
    """The blocks, and a 1x1 convolution to an image at each resolution.

    Args:
        resolution: that of the fully grown network, see :data:`~fastgan.models.stylegan.growing.RESOLUTIONS`.
        style_dim: length of a style.
        base_channels: see :func:`~fastgan.models.stylegan.growing.widths`.
    """

    def __init__(self, resolution: int, num_channels: int, *, style_dim: int, base_channels: int) -> None:
        channels = widths(resolution, base_channels)
        super().__init__(list(channels))
        self.style_dim = style_dim
        self.num_layers = 2 * len(channels)
        self.blocks = nn.ModuleDict()
        self.to_image = nn.ModuleDict()
        for size, c_out in channels.items():
            self.blocks[str(size)] = (
                SynthesisBlock(channels[size // 2], c_out, style_dim)
                if size // 2 in channels
                else ConstantBlock(c_out, style_dim)
            )
            self.to_image[str(size)] = EqualizedConv2d(c_out, num_channels, 1)
        for layer in range(self.num_layers):
            # The same on every device: drawn on the CPU from a fixed seed.
            random = torch.Generator().manual_seed(layer)
            size = self.resolutions[layer // 2]
            noise = torch.randn(1, 1, size, size, generator=random, device="cpu")
            self.register_buffer(f"noise_{layer}", noise, persistent=False)

    def forward(self, styles: Tensor, noise: str = "random") -> Tensor:
        """Images of the current resolution.

        Args:
            styles: [N, num_layers, style_dim]; layers above the current resolution ignore theirs.
            noise: "random", drawn at every call; "constant", the same for every sample and call; or "none".

        Returns:
            images [N, C, resolution, resolution], which aim at [-1, 1] and are not bounded.

        Raises:
            ValueError: for styles of another shape or another noise; one sentence.
        """
        if styles.dim() != 3 or styles.shape[1:] != (self.num_layers, self.style_dim):
            raise ValueError(
                f"Synthesis: styles have shape {list(styles.shape)}, expected [N, {self.num_layers}, {self.style_dim}]"
            )
        if noise not in NOISES:
            raise ValueError(f"Synthesis: noise is {noise!r}, expected {', '.join(map(repr, NOISES))}")
        count = styles.shape[0]  # not len(), which would make a constant of it in an exported program
        x = below = self.blocks["4"](styles[:, :2], *self._noises(0, count, noise))
        for i, size in enumerate(self.in_use()[1:], start=1):
            below = x
            x = self.blocks[str(size)](below, styles[:, 2 * i : 2 * i + 2], *self._noises(i, count, noise))
        images = self.to_image[str(self.resolution)](x)
        if self.fading:
            images = self.blend(_enlarged(self.to_image[str(self.resolution // 2)](below)), images)
        return images

    def _noises(self, block: int, count: int, noise: str) -> tuple[Tensor | None, Tensor | None]:
        if noise == "random":
            return None, None
        constants = self.get_buffer(f"noise_{2 * block}"), self.get_buffer(f"noise_{2 * block + 1}")
        first, second = (t.expand(count, -1, -1, -1) for t in constants)
        return (first, second) if noise == "constant" else (torch.zeros_like(first), torch.zeros_like(second))


def _conv(in_channels: int, out_channels: int) -> EqualizedConv2d:
    return EqualizedConv2d(in_channels, out_channels, 3, bias=False, gain=math.sqrt(2))


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")

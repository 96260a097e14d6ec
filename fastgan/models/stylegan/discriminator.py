"""The discriminator of Karras et al. 2018 with blur (Karras et al. 2019, appendix C)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.models.stylegan.growing import SMALLEST, GrowingNetwork, widths
from fastgan.nn import BiasAct, Blur, EqualizedConv2d, EqualizedLinear, MinibatchStdDev


class StyleGANDiscriminator(GrowingNetwork):
    """For each resolution a 1x1 convolution from the image and a block that halves it, down to 4x4; then a head.

    The head has a minibatch standard deviation, so gradient penalties include a small dependence on the other samples,
    as in the paper.

    Args:
        resolution: that of the fully grown network, a power of two from 8 to 1024.
        base_channels: see :func:`~fastgan.models.stylegan.growing.widths`.

    Shape:
        [N, num_channels, R, R] for the R that it has grown to, to logits [N].

    Raises:
        ValueError: for sizes that :func:`~fastgan.models.stylegan.growing.widths` refuses, and in the forward for
            images of another size than it has grown to; one sentence.
    """

    def __init__(self, resolution: int, num_channels: int, *, base_channels: int = 512) -> None:
        channels = widths(resolution, base_channels)
        super().__init__(list(channels))
        self.from_image = nn.ModuleDict()
        self.blocks = nn.ModuleDict()
        for size, c_in in channels.items():
            self.from_image[str(size)] = nn.Sequential(*_conv(num_channels, c_in, kernel_size=1))
            if size > SMALLEST:
                self.blocks[str(size)] = nn.Sequential(
                    *_conv(c_in, c_in), Blur((1, 2, 1)), *_conv(c_in, channels[size // 2], stride=2)
                )
        width = channels[SMALLEST]
        self.head = nn.Sequential(
            MinibatchStdDev(),
            *_conv(width + 1, width),
            nn.Flatten(),
            EqualizedLinear(width * SMALLEST**2, width, bias=False, gain=math.sqrt(2)),
            BiasAct(width, act="lrelu", negative_slope=0.2),
            EqualizedLinear(width, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.resolution, self.resolution):
            raise ValueError(
                f"StyleGANDiscriminator has grown to resolution {self.resolution}, not to images of shape"
                f" {list(images.shape)}"
            )
        x = self.from_image[str(self.resolution)](images)
        for size in reversed(self.in_use()[1:]):
            x = self.blocks[str(size)](x)
            if self.fading and size == self.resolution:
                x = self.blend(self.from_image[str(size // 2)](F.avg_pool2d(images, 2)), x)
        return self.head(x).squeeze(1)


def _conv(in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        EqualizedConv2d(in_channels, out_channels, kernel_size, stride=stride, bias=False, gain=math.sqrt(2)),
        BiasAct(out_channels, act="lrelu", negative_slope=0.2),
    ]

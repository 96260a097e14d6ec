"""Progressive growing: the base class of the generator's synthesis network and of the discriminator.

Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation", 2018
(https://arxiv.org/abs/1710.10196), section 2 and figure 2.
"""

import torch
from torch import Tensor, nn

SMALLEST = 4
RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)


def widths(resolution: int, base_channels: int) -> dict[int, int]:
    """Channels of the maps by their resolution, from 4 on: ``base_channels`` up to 32, then half as many each time.

    With 512 these are the paper's: 512 up to 32x32, 256 at 64x64, and 16 at 1024x1024 (Karras et al. 2018, table 2).

    Raises:
        ValueError: for a resolution that is not in ``RESOLUTIONS``, or so few ``base_channels`` that a map would have
            none; one sentence.
    """
    if resolution not in RESOLUTIONS:
        *others, last = RESOLUTIONS
        raise ValueError(
            f"stylegan has no networks for resolution {resolution}, only for {', '.join(map(str, others))} and {last}"
        )
    fewest = max(resolution // 32, 1)
    if base_channels < fewest:
        raise ValueError(f"stylegan at resolution {resolution} needs base_channels of at least {fewest}")
    sizes = [SMALLEST * 2**i for i in range((resolution // SMALLEST).bit_length())]
    return {size: base_channels * 32 // max(size, 32) for size in sizes}


class GrowingNetwork(nn.Module):
    """A network that works at one of several resolutions, or between one and the next lower.

    ``resolution`` and ``fading`` are Python values and decide which layers run. The fade is a buffer on the device, so
    that a captured graph follows it. None is in the state dict: training derives them from the number of images.

    Args:
        resolutions: powers of two, ascending. The network begins fully grown, at the last of them.
    """

    fade: Tensor

    def __init__(self, resolutions: list[int]) -> None:
        super().__init__()
        self.resolutions = resolutions
        self.resolution = resolutions[-1]
        self.fading = False
        self.register_buffer("fade", torch.ones(()), persistent=False)

    def grow(self, resolution: int, fade: float = 1.0) -> None:
        """Works with images of ``resolution`` from now on.

        Args:
            resolution: one of ``resolutions``, higher or lower than now.
            fade: weight of ``resolution``: at 0 only the next lower resolution counts, at 1 only this one.

        Raises:
            ValueError: for a resolution not in ``resolutions``, a fade outside [0, 1], or one below 1 at the lowest
                resolution; one sentence.
        """
        if resolution not in self.resolutions:
            raise ValueError(
                f"{type(self).__name__} cannot grow to resolution {resolution}, only to"
                f" {', '.join(map(str, self.resolutions))}"
            )
        if not 0 <= fade <= 1:
            raise ValueError(f"fade is {fade}, expected from 0 to 1")
        if fade < 1 and resolution == self.resolutions[0]:
            raise ValueError(f"fade is {fade} at resolution {resolution}, the lowest; expected 1")
        self.resolution = resolution
        self.fading = fade < 1
        self.fade.fill_(fade)

    def in_use(self) -> list[int]:
        """The resolutions whose blocks run now."""
        return [size for size in self.resolutions if size <= self.resolution]

    def blend(self, below: Tensor, above: Tensor) -> Tensor:
        """``below`` at fade 0, ``above`` at fade 1; tensors of one shape."""
        return below + self.fade * (above - below)

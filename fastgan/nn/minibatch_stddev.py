"""Minibatch standard deviation as a layer."""

from torch import Tensor, nn

from fastgan_kernels import minibatch_stddev


class MinibatchStdDev(nn.Module):
    """Appends to each sample how much the samples of its group differ, so that a discriminator detects mode collapse.

    Karras et al. 2018, section 3. The layer has no parameters. It comes before the last convolution of a discriminator,
    which then takes ``num_channels`` more channels.

    Args:
        group_size: samples whose standard deviation is taken; the largest divisor up to it of the batch that a forward
            is given, a micro-batch or the share of one process. Where that is 1, as for a batch that is a prime number
            above it, the appended channel is the constant 1e-4, without information: take multiples of ``group_size``.
        num_channels: how many averages are appended; C must be a multiple of it.

    Shape:
        [N, C, \\*spatial] to [N, C + num_channels, \\*spatial], in the layout of the input.
    """

    def __init__(self, group_size: int = 4, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        return minibatch_stddev(x, group_size=self.group_size, num_channels=self.num_channels)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}, num_channels={self.num_channels}"

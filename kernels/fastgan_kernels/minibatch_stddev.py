"""minibatch_stddev: not yet a kernel."""

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order


def minibatch_stddev(x: Tensor, *, group_size: int = 4, num_channels: int = 1) -> Tensor:
    """The reference alone, until the kernel lands."""
    return reference.minibatch_stddev(guard_second_order(x), group_size=group_size, num_channels=num_channels)

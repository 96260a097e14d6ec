"""upfirdn2d: not yet a kernel."""

from collections.abc import Sequence

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1.0,
) -> Tensor:
    """The reference alone, until the kernel lands."""
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    return reference.upfirdn2d(guard_second_order(x), kernel, up=up, down=down, padding=pads, gain=gain)

"""FIR filtering as a layer: blur, and resampling without aliasing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan_kernels import upfirdn2d


class Blur(nn.Module):
    """Filters every channel with a fixed separable kernel, with optional upsampling or downsampling.

    StyleGAN blurs with (1, 2, 1) at each change of resolution (Karras et al. 2019, section 2, after Zhang 2019);
    StyleGAN2 resamples with (1, 3, 3, 1) (Karras et al. 2020, appendix B). Brightness is preserved: the gain normalizes
    the taps and compensates for the zeros that ``up`` inserts. The layer has no parameters and no entries in the state
    dict; drop the buffer that a checkpoint of another implementation may have.

    Args:
        kernel: taps of one axis, whose sum is not 0; the filter is their outer product.
        up: upsampling factor, at least 1.
        down: downsampling factor, at least 1; ``up`` or ``down`` must be 1.
        padding: as in :func:`fastgan_kernels.upfirdn2d`; ``None`` for the output size below. StyleGAN2 pads by 2 before
            a 3x3 convolution with stride 2 and no padding.

    Shape:
        [N, C, H, W] to [N, C, up * H // down, up * W // down] if ``padding`` is ``None``, in the layout (contiguous or
        channels-last) of the input. A kernel whose length does not match the factor's parity is shifted half a pixel
        towards the end.

    Raises:
        ValueError: for other arguments.
    """

    kernel: Tensor

    def __init__(
        self,
        kernel: Sequence[float] = (1, 3, 3, 1),
        *,
        up: int = 1,
        down: int = 1,
        padding: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not len(kernel) or not sum(kernel):
            raise ValueError(f"Blur: kernel is {tuple(kernel)}, expected taps of a sum that is not 0")
        if up < 1 or down < 1 or min(up, down) > 1:
            raise ValueError(f"Blur: up is {up} and down {down}, expected at least 1 each and one of them 1")
        self.up, self.down = up, down
        # Taps are not normalized, so that they are exact in every dtype; the gain divides by their sum. A vector, not
        # its outer product: filtering along one axis and then the other takes half of the arithmetic.
        self.register_buffer("kernel", torch.tensor(kernel, dtype=torch.float32), persistent=False)
        self.gain = (up / sum(kernel)) ** 2
        rest = len(kernel) - max(up, down)
        before, after = (rest + 1) // 2 + up - 1, rest // 2
        self.padding = [before, after, before, after] if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, up=self.up, down=self.down, padding=self.padding, gain=self.gain)

    def extra_repr(self) -> str:
        return f"{len(self.kernel)}x{len(self.kernel)}, up={self.up}, down={self.down}, padding={self.padding}"

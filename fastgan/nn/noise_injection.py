"""Noise injection with a learned strength."""

import torch
from torch import Tensor, nn

from fastgan_kernels import noise_injection


class NoiseInjection(nn.Module):
    """Adds noise, the same for all channels of a pixel, times a learned strength (Karras et al. 2019, section 3.2).

    The strengths begin at 0, so that training decides where noise is of use.

    Args:
        num_channels: C, for a strength for each channel; ``None`` for one strength for all, as in StyleGAN2.
        parameter_name: name of the strength in the module and in checkpoints, for models that call it something else.

    Shape:
        x [N, C, \\*spatial] and optionally noise [N or 1, 1, \\*spatial] to [N, C, \\*spatial]. Without it a standard
        normal is drawn at every call, in training and in evaluation.
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

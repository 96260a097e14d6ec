"""The networks' dtype and memory format, and the gradient scaling for float16."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.training.config import TrainingConfig

_TF32 = 2.0**-10
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# The scale starts at 2**16 and halves at every update whose gradients overflow. At a scale below 1 they overflow even
# unscaled, or are NaN at any scale.
_LEAST_SCALE = 1.0


class Precision:
    """Applies the settings ``precision``, ``tf32`` and ``channels_last``.

    Weights, losses and penalties are float32, or float64 with ``precision = "float64"``. bfloat16 and float16 are
    torch's autocast. With float16 each optimizer has its own gradient scaler (Micikevicius et al. 2018,
    https://arxiv.org/abs/1710.03740, section 3.2), since the two networks' gradients differ by orders of magnitude.

    On CUDA, ``tf32`` is set for the whole process.

    Attributes:
        dtype: dtype of weights, losses and images.
        rounding: machine epsilon of the dtype that the networks compute in.
        scales: whether gradients are scaled.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self._device = device
        self._autocast = _AUTOCAST.get(config.precision)
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.rounding = torch.finfo(self._autocast or self.dtype).eps
        if device.type == "cuda" and config.tf32 and self.dtype == torch.float32:
            self.rounding = max(self.rounding, _TF32)
        self.scales = self._autocast == torch.float16
        self.generator_scaler, self.discriminator_scaler = (
            torch.amp.GradScaler(device.type, enabled=self.scales) for _ in range(2)
        )
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = config.tf32
            torch.backends.cudnn.allow_tf32 = config.tf32

    def prepare(self, network: nn.Module) -> nn.Module:
        """Converts a network to the device, the dtype and the memory format."""
        return network.to(self._device, self.dtype).to(memory_format=self._format)

    def images(self, images: Tensor) -> Tensor:
        """Converts images [N, C, H, W] to the networks' dtype and memory format."""
        return images.to(self.dtype).contiguous(memory_format=self._format)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which every forward pass runs."""
        return nullcontext() if self._autocast is None else torch.autocast(self._device.type, self._autocast)

    def scalers(self) -> dict[str, torch.amp.GradScaler]:
        """The gradient scalers, by their names in checkpoints; empty without scaling."""
        both = {"generator_scaler": self.generator_scaler, "discriminator_scaler": self.discriminator_scaler}
        return both if self.scales else {}

    def lost_scaler(self) -> str | None:
        """The name of a scaler whose scale has fallen below 1, so that its gradients are not finite, or None; waits for
        the device."""
        return next((name for name, scaler in self.scalers().items() if scaler.get_scale() < _LEAST_SCALE), None)


def laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """Gives values of a parameter, such as its gradient or an average, the strides of the parameter.

    torch's fused Adam reads them in memory order: on the CPU, values with other strides silently update the wrong
    weights; on CUDA torch refuses them. Autograd's gradients have these strides; tensors read from a file or computed
    by a compiled graph may not.
    """
    return values if values.stride() == parameter.stride() else torch.empty_like(parameter).copy_(values)

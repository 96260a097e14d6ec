"""In which type the networks compute, what keeps float16 gradients from vanishing, and how maps lie in memory."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.training.config import TrainingConfig

_TF32 = 2.0**-10
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# The scale starts at 2**16 and halves at every update whose gradients overflow. Below 1 it would no longer help
# gradients that vanish: they overflow by themselves, or are not numbers at any scale.
_LEAST_SCALE = 1.0


class Precision:
    """The settings ``precision``, ``tf32`` and ``channels_last`` at work.

    Weights, losses and penalties are float32 (all of it float64 with that precision); bfloat16 and float16 are torch's
    autocast, and with float16 each optimizer has a gradient scaler of its own (Micikevicius et al. 2018,
    https://arxiv.org/abs/1710.03740, section 3.2), since the networks' gradients differ by orders of magnitude.

    Args:
        config: the settings.
        device: where the networks are. On CUDA, ``tf32`` is set for the whole process.

    Attributes:
        dtype: of weights, losses and images.
        rounding: the relative error of one rounding where the networks compute.
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
        """Moves a network to the device, the type and the memory format."""
        return network.to(self._device, self.dtype).to(memory_format=self._format)

    def images(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in the type and the memory format that the networks have."""
        return images.to(self.dtype).contiguous(memory_format=self._format)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass."""
        return nullcontext() if self._autocast is None else torch.autocast(self._device.type, self._autocast)

    def scalers(self) -> dict[str, torch.amp.GradScaler]:
        """By the names under which a checkpoint keeps them; empty where nothing is scaled."""
        both = {"generator_scaler": self.generator_scaler, "discriminator_scaler": self.discriminator_scaler}
        return both if self.scales else {}

    def lost_scaler(self) -> str | None:
        """The name of a scaler whose scale has fallen so far that no gradient is finite, or None; waits for the
        device."""
        return next((name for name, scaler in self.scalers().items() if scaler.get_scale() < _LEAST_SCALE), None)


def laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """Values of a parameter, such as its gradient or an average, with the strides that the parameter has.

    torch's fused Adam walks the memory of all of them side by side: on the CPU, values of other strides land on the
    wrong weights without an error; on CUDA they are refused. Autograd's own gradients come this way; what is read from
    a file or computed by a compiled graph may not.
    """
    return values if values.stride() == parameter.stride() else torch.empty_like(parameter).copy_(values)

"""Whole steps of training: what a user feels of the ops, against the same trainer on plain torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import DTYPES, Call, key_of, shape_text
from benchmarks.measure import Device, Effort, Refusal, Row, cells, compared, time_calls
from fastgan.data.sources import ResidentImages
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.progressive import GrowingSchedule
from fastgan.training.trainer import Trainer
from fastgan_kernels import use_backend

# The trainer's mode and the implementation of the ops.
_IMPLEMENTATIONS = {
    "fused": ("eager", "triton"),
    "eager": ("eager", "reference"),
    "fused_graph": ("graph", "triton"),
    "eager_graph": ("graph", "reference"),
}
_COMPILED = {
    "fused": ("eager", "triton"),
    "fused_compile": ("compiled", "triton"),
    "compile": ("compiled", "reference"),
}
_TF32 = 2.0**-10  # the relative error of a rounding in the convolutions of a GPU
_SMALL = 1e-3


@dataclass(frozen=True)
class Step:
    """Steps of a preset with the widths of the papers, on random bytes: as many as have one penalty among them.

    Attributes:
        problem: its name.
        dtype_name: the trainer's ``precision``.
        num_channels: of the images.
        changes: to the preset's settings.
    """

    problem: str
    preset: str
    num_channels: int
    changes: dict[str, Any] = field(default_factory=dict)
    dtype_name: str = "float32"
    toy: bool = False

    @property
    def config(self) -> TrainingConfig:
        config = TrainingConfig.from_mapping(load_preset(self.preset) | self.changes)
        last = GrowingSchedule.from_config(config).stages[config.resolution]
        first = config.grow_from or config.resolution
        config = replace(
            config, grow_from=0, batch_sizes="", lrs="", batch_size=last.batch_size, precision=self.dtype_name
        )
        if not self.toy:
            return config
        sizes = {"batch_size": 4, "base_channels": 2, "resolution": min(first, 16)}
        return replace(config, **sizes, latent_dim=min(config.latent_dim, 128), regularizer_interval=1)

    @property
    def subject(self) -> dict[str, object]:
        config = self.config
        return {
            "op": f"train:{self.preset}",
            "problem": f"toy_{self.problem}" if self.toy else self.problem,
            # Steps of a call, batch, height and width.
            "shape": shape_text((config.regularizer_interval, config.batch_size, config.resolution, config.resolution)),
            "dtype": self.dtype_name,
            "layout": "contiguous",
            "pass": "step",
        }

    @property
    def key(self) -> str:
        return key_of(self.subject)

    def call(self, mode: str, kernels: str, device: torch.device, compile_backend: str) -> Call:
        """The steps of a trainer, which draws the same weights and images in every mode.

        The first call returns the discriminator's losses and gradients after its first step and, where the mode is not
        compiled, all losses and the gradients after the last.
        """
        config = replace(self.config, device=str(device), engine=mode)
        # So many that a batch is not found in cache.
        count = (2**18 if self.toy else 2**26) // (self.num_channels * config.resolution**2)
        shape = count, self.num_channels, config.resolution, config.resolution
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        # The first power iterations of a spectral norm are no part of a step, and Triton's interpreter is slow.
        with use_backend("reference"):
            trainer = Trainer.from_config(config, ResidentImages(images, None, device), compile_backend=compile_backend)
        called = False

        def gradients() -> list[Tensor]:
            # Layers of resolutions that have been grown out of have none.
            return [p.grad.clone() for p in trainer.discriminator.parameters() if p.grad is not None]

        def call() -> list[Tensor]:
            nonlocal called
            first: list[Tensor] = []
            with use_backend(kernels):
                for i in range(config.regularizer_interval):
                    trainer.step()
                    if i == 0 and not called:
                        first = [torch.cat((trainer.loss_sums[:1], trainer.loss_sums[2:])), *gradients()]
            if called:
                return [trainer.loss_sums]
            called = True
            # A compiled generator makes its images again for its own step, with new noise.
            return first if mode == "compiled" else [*first, trainer.loss_sums.clone(), *gradients()]

        return call


_WIDE = {"resolution": 28, "batch_size": 64, "base_channels": 64}
_STYLEGAN = {"resolution": 256, "base_channels": 512, "latent_dim": 512, "batch_size": 16, "style_mixing": 0.9}
_ITS_GROWTH = {"regularizer_weight": 10.0, "grow_from": 8, "batch_sizes": "", "lrs": ""}
# 64 channels before the image in DCGAN's 28x28 networks, 64 to 512 in SNGAN's discriminator, 512 up to 32x32 and 64 at
# 256x256 in StyleGAN's.
_SIZES = (
    Step("dcgan_28", "dcgan", 1, _WIDE),
    Step("wgan-gp_28", "wgan-gp", 1, _WIDE),
    Step("sngan_28", "sngan", 1, _WIDE),
    Step("stylegan_256", "stylegan", 3, _STYLEGAN | _ITS_GROWTH),
)


def steps(*, toy: bool = False) -> list[Step]:
    """All steps, those first whose loss would hurt most."""
    if toy:
        return [replace(step, toy=True) for step in _SIZES]
    return [replace(step, dtype_name=dtype) for dtype in ("float32", "bfloat16") for step in _SIZES]


def measure(step: Step, device: Device, effort: Effort, *, compiled: bool = False) -> tuple[list[Row], list[Refusal]]:
    """The rows of a step (without the identity of the machine), and the implementations that were refused.

    Half the digits of the eager trainer on plain torch must agree: an activation near its kink may go either way. A
    trainer counts its steps on the host and makes graphs of its own, so only wall time is measured.
    """
    torch._dynamo.reset()
    make = partial(step.call, device=device.place, compile_backend=effort.compile_backend)
    expected = [t.detach().to(torch.float64, copy=True) for t in make("eager", "reference")()]
    eps = torch.finfo(DTYPES[step.dtype_name]).eps
    allowed = max(eps, 0 if device.kind == "cpu" else _TF32) ** 0.5
    calls: dict[str, list[Call]] = {}
    refusals = []
    for name, (mode, kernels) in (_COMPILED if compiled else _IMPLEMENTATIONS).items():
        if mode == "graph" and device.kind == "cpu":
            continue

        def build(name: str = name, mode: str = mode, kernels: str = kernels) -> Call:
            call = make(mode, kernels)
            calls[name] = [call]
            return call

        refusals += compared(name, build, expected, allowed, error, device)
    for refusal in refusals:
        calls.pop(refusal.implementation, None)
    figures = time_calls(calls, device, effort, ("wall",))
    return [
        {**step.subject, "implementation": name, **cells(figures, name), "peak_bytes": device.peak_bytes(call)}
        for name, (call,) in calls.items()
    ], refusals


def error(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest error of an output in norm, relative to its norm or, if that is more, to 1e-3 of the largest norm.

    The gradient of the last bias of a Wasserstein critic, say, is 0 by cancellation. ``outputs`` may be the first of
    those expected.
    """
    norms = [t.norm().item() for t in expected]
    smallest = _SMALL * max(norms)
    if smallest == 0:
        raise ValueError("the reference is zero everywhere, so there is nothing to compare")
    found = [
        (y.detach().to(torch.float64) - r).norm().item() / max(norm, smallest)
        for y, r, norm in zip(outputs, expected, norms, strict=False)
    ]
    return math.inf if any(map(math.isnan, found)) else max(found)

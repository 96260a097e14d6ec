"""Whole training steps on the ops, against the same trainer on plain torch."""

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

# Implementation: the trainer's mode, and the backend of the ops.
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
_TF32 = 2.0**-10  # relative rounding error of a GPU's convolutions
_SMALL = 1e-3


@dataclass(frozen=True)
class Step:
    """Steps of a preset with the papers' widths, on random images. One call runs as many as there are per penalty.

    Attributes:
        problem: name of the problem.
        preset: name of the preset.
        num_channels: channels of the images.
        changes: settings that override the preset's.
        dtype_name: the trainer's ``precision``.
        toy: whether to use sizes for a CPU.
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
        last = GrowingSchedule(config).stages[config.resolution]
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
            # Steps per call, batch size, height and width.
            "shape": shape_text((config.regularizer_interval, config.batch_size, config.resolution, config.resolution)),
            "dtype": self.dtype_name,
            "layout": "contiguous",
            "pass": "step",
        }

    @property
    def key(self) -> str:
        return key_of(self.subject)

    def call(self, mode: str, kernels: str, device: torch.device, compile_backend: str) -> Call:
        """A call that runs steps of a trainer, which draws the same weights and images in every mode.

        The first call returns the discriminator's losses and gradients after the first step; unless the mode is
        ``"compiled"`` it also returns all losses and gradients after the last step.
        """
        config = replace(self.config, device=str(device), engine=mode)
        # So many images that a batch is not found in cache.
        count = (2**18 if self.toy else 2**26) // (self.num_channels * config.resolution**2)
        shape = count, self.num_channels, config.resolution, config.resolution
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        # The first power iterations of a spectral norm are not part of a step, and slow in Triton's interpreter.
        with use_backend("reference"):
            trainer = Trainer.from_config(config, ResidentImages(images, None, device), compile_backend=compile_backend)
        called = False

        def gradients() -> list[Tensor]:
            # Layers of resolutions that growing has left behind have no gradient.
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
            # In compiled mode the generator's own step generates its images again, with new noise.
            return first if mode == "compiled" else [*first, trainer.loss_sums.clone(), *gradients()]

        return call


_WIDE = {"resolution": 28, "batch_size": 64, "base_channels": 64}
_STYLEGAN = {"resolution": 256, "base_channels": 512, "latent_dim": 512, "batch_size": 16, "style_mixing": 0.9}
_ITS_GROWTH = {"regularizer_weight": 10.0, "grow_from": 8, "batch_sizes": "", "lrs": ""}
# Channels: DCGAN's 28x28 networks have 64 before the image, SNGAN's discriminator 64 to 512, StyleGAN's networks 512 up
# to 32x32 and 64 at 256x256.
_SIZES = (
    Step("dcgan_28", "dcgan", 1, _WIDE),
    Step("wgan-gp_28", "wgan-gp", 1, _WIDE),
    Step("sngan_28", "sngan", 1, _WIDE),
    Step("stylegan_256", "stylegan", 3, _STYLEGAN | _ITS_GROWTH),
)


def steps(*, toy: bool = False) -> list[Step]:
    """All steps, most important first."""
    if toy:
        return [replace(step, toy=True) for step in _SIZES]
    return [replace(step, dtype_name=dtype) for dtype in ("float32", "bfloat16") for step in _SIZES]


def measure(step: Step, device: Device, effort: Effort, *, compiled: bool = False) -> tuple[list[Row], list[Refusal]]:
    """The rows of a step (without the identity of the machine), and the implementations that were refused.

    Half of the digits must agree with the eager trainer on plain torch, not all: an activation near its kink may fall
    on either side. A trainer counts steps on the host and captures its own graphs, so only wall time is measured.
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
    """The largest norm of an output's error, relative to the output's norm, or to 1e-3 of the largest norm if more.

    Some gradients are 0 by cancellation, such as that of the last bias of a Wasserstein critic. ``outputs`` may be
    fewer than ``expected``; they are compared with the first ones.
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

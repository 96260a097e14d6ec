"""A training step and a batch of samples of every preset, as `fastgan train` runs them.

A problem's shape is the batch size, and height and width of the images. ``eager`` runs the same engine on the
plain-torch references. A preset that grows is measured at the last of its resolutions, and one with a lazy penalty in
calls of as many steps as have one penalty among them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.passes import Call, Outputs
from benchmarks.registry import Problem
from benchmarks.steps.step import Setting, Step
from fastgan.training.assembly import make_engine
from fastgan.training.config import TrainingConfig, load_preset, preset_names
from fastgan.training.engine import Engine
from fastgan.training.growth import GrowthSchedule
from fastgan_kernels import use_backend


def _config(preset: str, *, toy: bool) -> TrainingConfig:
    config = TrainingConfig.from_mapping(load_preset(preset))
    last = GrowthSchedule.of(config).of_resolution[config.resolution]
    first = config.grow_from or config.resolution
    config = replace(config, grow_from=0, batch_sizes="", lrs="", batch_size=last.batch_size)
    if not toy:
        return config
    # What sees points of the plane has no maps to narrow, and with two units none may be left that is not zero.
    width = 2 if config.resolution > 1 else config.base_channels
    return replace(config, batch_size=4, base_channels=width, resolution=min(first, 16), regularizer_interval=1)


def _problem(preset: str, *, toy: bool) -> Problem:
    config = _config(preset, toy=toy)
    shape = (config.batch_size, config.resolution, config.resolution)
    return Problem(f"toy_{preset}" if toy else preset, shape, f"the preset {preset}", key=True)


def _engine(preset: str, setting: Setting) -> Engine:
    config = _config(preset, toy=setting.problem.name.startswith("toy_"))
    # The first power iterations of a spectral norm are no part of a step, and Triton's interpreter is slow.
    with use_backend("reference"):
        return make_engine(replace(config, device=str(setting.device)))


def _train(preset: str, backend: str) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        engine = _engine(preset, setting)

        def call() -> Outputs:
            with use_backend(backend), setting.autocast():
                for _ in range(engine.config.regularizer_interval):
                    engine.step()
            # Layers of resolutions that have been grown out of have none.
            gradients = (p.grad for p in engine.discriminator.parameters())
            return engine.loss_sums, *(gradient for gradient in gradients if gradient is not None)

        return call

    return call_of


def _sample(preset: str, backend: str) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        engine = _engine(preset, setting)
        generator = engine.averaged.module.to(setting.dtype).eval()
        random = torch.Generator().manual_seed(1)
        size = setting.problem.shape[0]
        drawn = torch.randn(size, engine.config.latent_dim, generator=random)
        inputs = [drawn.to(setting.device, setting.dtype)]
        if num_classes := getattr(generator, "num_classes", None):
            inputs.append(torch.arange(size, device=setting.device) % num_classes)

        @torch.inference_mode()
        def call() -> Outputs:
            with use_backend(backend), setting.autocast():
                return (generator(*inputs),)

        return call

    return call_of


def _step(preset: str, kind: str, form: Callable[[str, str], Callable[[Setting], Call]], **rest: object) -> Step:
    return Step(
        name=f"{kind}:{preset}",
        pass_="step" if kind == "train" else "sample",
        problems=(_problem(preset, toy=False),),
        toy_problems=(_problem(preset, toy=True),),
        providers={"fused": form(preset, "triton"), "eager": form(preset, "reference")},
        **rest,
    )


# The engine draws with a generator of its own, and counts its steps on the host.
TRAIN = tuple(_step(p, "train", _train, exact=False, capturable=False, dtypes=("float32",)) for p in preset_names())
SAMPLE = tuple(_step(p, "sample", _sample, late=True) for p in preset_names())

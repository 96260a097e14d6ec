"""A training step and a batch of samples of every preset, as `fastgan train` runs them.

A problem's shape is that of the batch of images. ``eager`` runs the same engine on the plain-torch references.
"""

import dataclasses
from collections.abc import Callable

import torch

from benchmarks.passes import Call, Outputs
from benchmarks.registry import Problem
from benchmarks.steps.step import Setting, Step
from fastgan.training.config import TrainingConfig, load_preset, preset_names
from fastgan.training.engine import Engine
from fastgan_kernels import use_backend

_TOY = {"resolution": 16, "base_channels": 4, "batch_size": 4}
_NUM_IMAGES = 256  # of the data set, which lies on the device whole
_CHANNELS = {"digits": 1}  # of the data that presets train on
_NUM_CLASSES = 10


def _problem(preset: str, *, toy: bool) -> Problem:
    config = TrainingConfig.from_mapping(load_preset(preset) | (_TOY if toy else {}))
    shape = (config.batch_size, _CHANNELS[config.data], config.resolution, config.resolution)
    return Problem(f"toy_{preset}" if toy else preset, shape, f"the preset {preset}", key=True)


def _engine(preset: str, setting: Setting) -> Engine:
    batch, channels, size, _ = setting.problem.shape
    toy = _TOY if setting.problem.name.startswith("toy_") else {}
    config = TrainingConfig.from_mapping(load_preset(preset) | toy)
    config = dataclasses.replace(config, batch_size=batch, resolution=size)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (_NUM_IMAGES, channels, size, size), dtype=torch.uint8, generator=random)
    return Engine(config, images, setting.device, torch.arange(_NUM_IMAGES) % _NUM_CLASSES)


def _train(preset: str, backend: str) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        engine = _engine(preset, setting)

        def call() -> Outputs:
            with use_backend(backend), setting.autocast():
                engine.step()
            return engine.loss_sums, *(p.grad for p in engine.discriminator.parameters())

        return call

    return call_of


def _sample(preset: str, backend: str) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        engine = _engine(preset, setting)
        generator = engine.averaged.module.to(setting.dtype).eval()
        random = torch.Generator().manual_seed(1)
        drawn = torch.randn(setting.problem.shape[0], engine.config.latent_dim, generator=random)
        inputs = [drawn.to(setting.device, setting.dtype)]
        if engine.labels is not None:
            inputs.append(engine.labels[: len(drawn)])

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
SAMPLE = tuple(_step(p, "sample", _sample) for p in preset_names())

"""A training step and a batch of samples of every preset, as `fastgan train` runs them.

The shape of a training problem is the number of steps in a call, the batch size, and height and width of the images;
of samples it is the last three. A preset that grows is measured at the last of its resolutions, and one with a lazy
penalty in calls of as many steps as have one penalty among them. Presets are for small digits; the sizes by which the
engine is judged are those of the papers, on random bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.passes import Call, Outputs
from benchmarks.registry import Problem
from benchmarks.steps.plain_loop import PlainLoop, TunedLoop, gradients_of
from benchmarks.steps.step import Setting, Step
from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.training.config import TrainingConfig, load_preset, preset_names
from fastgan.training.engine import Engine
from fastgan.training.growth import GrowthSchedule
from fastgan_kernels import use_backend

_BYTES = {False: 64 * 2**20, True: 2**18}  # of random images: so many that a batch is not found in cache; at toy size


@dataclass(frozen=True)
class Size:
    """What is trained: a preset with other settings, on the preset's data or, with ``num_channels``, random bytes."""

    name: str
    preset: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    num_channels: int | None = None

    def config(self, *, toy: bool) -> TrainingConfig:
        config = TrainingConfig.from_mapping(load_preset(self.preset) | self.changes)
        last = GrowthSchedule.of(config).of_resolution[config.resolution]
        first = config.grow_from or config.resolution
        config = replace(config, grow_from=0, batch_sizes="", lrs="", batch_size=last.batch_size)
        if not toy:
            return config
        # What sees points of the plane has no maps to narrow, and with two units none may be left that is not zero.
        width = 2 if config.resolution > 1 else config.base_channels
        sizes = {"batch_size": 4, "base_channels": width, "resolution": min(first, 16)}
        return replace(config, **sizes, latent_dim=min(config.latent_dim, 128), regularizer_interval=1)

    def problem(self, *, toy: bool, steps: bool) -> Problem:
        config = self.config(toy=toy)
        shape = (config.batch_size, config.resolution, config.resolution)
        shape = (config.regularizer_interval, *shape) if steps else shape
        return Problem(f"toy_{self.name}" if toy else self.name, shape, self.model, key=True)

    def images(self, config: TrainingConfig, *, toy: bool) -> tuple[Tensor, Tensor | None]:
        """Images and labels on the host."""
        if self.num_channels is None:
            dataset = load_dataset(config.data, resolution=config.resolution)
            return dataset.images, dataset.labels if config.conditional else None
        shape = self.num_channels, config.resolution, config.resolution
        count = _BYTES[toy] // (self.num_channels * config.resolution**2)
        random = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=random), None


_WIDE = {"resolution": 28, "batch_size": 64}
# Widths of the papers: 64 channels before the image in DCGAN's 28x28 networks, 64 to 512 in SNGAN's discriminator, 512
# up to 32x32 and 64 at 256x256 in StyleGAN's. That one has 26 and 23 million parameters; with 16 images of 256x256 a
# form of it should keep less than 15 GB of activations, so all forms side by side fit into 80 GB.
JUDGED_SIZES = (
    Size("vanilla_28", "vanilla", "vanilla GAN at 28x28, batch 64", _WIDE, 1),
    Size("dcgan_28", "dcgan", "DCGAN 28, batch 64", _WIDE | {"base_channels": 64}, 1),
    Size("wgan-gp_28", "wgan-gp", "WGAN-GP on the DCGAN 28 trunk, batch 64", _WIDE | {"base_channels": 64}, 1),
    Size("sngan_28", "sngan", "SNGAN at 28x28, batch 64", _WIDE | {"base_channels": 64}, 1),
    Size(
        "stylegan_256", "stylegan", "StyleGAN at 256 px, sixteen samples",
        {
            "resolution": 256, "base_channels": 512, "latent_dim": 512, "batch_size": 16, "style_mixing": 0.9,
            "regularizer_weight": 10.0, "grow_from": 8, "batch_sizes": "", "lrs": "",
        },
        3,
    ),
)  # fmt: skip
_PRESET_SIZES = tuple(Size(preset, preset, f"the preset {preset}") for preset in preset_names())
_SIZES = {size.name: size for size in (*JUDGED_SIZES, *_PRESET_SIZES)}


def _built(setting: Setting, form: str) -> tuple[Engine, Tensor, Tensor | None]:
    """An engine of a form, and its images and labels on the host."""
    name = setting.problem.name
    size = _SIZES[name.removeprefix("toy_")]
    toy = name.startswith("toy_")
    config = size.config(toy=toy)
    precision = {"precision": setting.dtype_name, "device": str(setting.device), "engine": form}
    images, labels = size.images(config, toy=toy)
    # The first power iterations of a spectral norm are no part of a step, and Triton's interpreter is slow.
    source = ResidentImages(images, labels, setting.device)
    with use_backend("reference"):
        config = replace(config, **precision)
        engine = Engine(config, source, setting.device, compile_backend=setting.compile_backend)
    return engine, images, labels


def _engine(form: str, backend: str) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        engine, _, _ = _built(setting, form)

        def step(_: bool) -> None:
            with use_backend(backend):
                engine.step()

        # A compiled generator makes its images again for its own step, with new noise: from there on it goes its way.
        return _call(
            engine.config.regularizer_interval,
            step,
            lambda: engine.loss_sums,
            lambda: gradients_of(engine.discriminator),
            first_alone=form == "compiled",
        )

    return call_of


def _loop(*, tuned: bool) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        # Its own precision is none of the engine's, which is there to draw the same weights.
        engine, images, labels = _built(replace(setting, dtype_name="float32"), "eager")
        loop = TunedLoop(engine, images, labels, setting) if tuned else PlainLoop(engine, images, labels)

        def step(looked_at: bool) -> None:
            with use_backend("reference"):
                loop.step(looked_at=looked_at)

        return _call(engine.config.regularizer_interval, step, loop.loss_sums, lambda: loop.gradients)

    return call_of


def _call(
    steps: int,
    step: Callable[[bool], None],
    loss_sums: Callable[[], Tensor],
    gradients: Callable[[], Outputs],
    *,
    first_alone: bool = False,
) -> Call:
    """Steps, of which only the first call is looked at: after its first step, and after its last.

    The outputs of that call are the discriminator's losses and gradients after the first step and, without
    ``first_alone``, all losses and the gradients after the last.
    """
    called = False

    def call() -> Outputs:
        nonlocal called
        if called:
            for _ in range(steps):
                step(False)
            return (loss_sums(),)
        called = True
        step(True)
        sums = loss_sums()
        first = (torch.cat((sums[:1], sums[2:])), *gradients())
        for _ in range(steps - 1):
            step(True)
        return first if first_alone else (*first, loss_sums().clone(), *gradients())

    return call


def _sample(preset: str, backend: str) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        engine, _, _ = _built(replace(setting, dtype_name="float32"), "eager")
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


_FORMS: dict[str, Callable[[Setting], Call]] = {
    "fused": _engine("eager", "triton"),
    "eager": _engine("eager", "reference"),
    "graph": _engine("graph", "triton"),
    "compiled": _engine("compiled", "triton"),
    "tuned": _loop(tuned=True),
    "loop": _loop(tuned=False),
}


def _train(size: Size, dtype: str, left_out: tuple[str, ...] = (), *, late: bool, toy: bool = False) -> Step:
    problem = size.problem(toy=toy, steps=True)
    return Step(
        name=f"train:{size.preset}",
        pass_="step",
        problems=() if toy else (problem,),
        toy_problems=(problem,) if toy else (),
        providers={name: form for name, form in _FORMS.items() if name not in left_out},
        partly=("compiled",),
        exact=False,
        capturable=False,  # an engine draws with a generator of its own, and counts its steps on the host
        dtypes=(dtype,),
        late=late,
    )


def _sampling(preset: str) -> Step:
    (size,) = (size for size in _PRESET_SIZES if size.preset == preset)
    return Step(
        name=f"sample:{preset}",
        pass_="sample",
        problems=(size.problem(toy=False, steps=False),),
        toy_problems=(size.problem(toy=True, steps=False),),
        providers={"fused": _sample(preset, "triton"), "eager": _sample(preset, "reference")},
        late=True,
    )


# A compilation of whole steps takes too long for what must come early; the loop is float32 whatever the case.
JUDGED = tuple(_train(size, "float32", ("compiled",), late=False) for size in JUDGED_SIZES)
JUDGED_BFLOAT16 = tuple(_train(size, "bfloat16", ("compiled", "loop"), late=True) for size in JUDGED_SIZES)
TRAIN = (
    *(_train(size, "float32", late=True) for size in _PRESET_SIZES),
    *(_train(size, "bfloat16", ("loop",), late=True) for size in _PRESET_SIZES),
)
# Each preset once. A CPU compiles one for up to half a minute, so the penalised one alone shows that it works.
TOY = tuple(
    _train(size, "float32", () if size.preset == "wgan-gp" else ("compiled", "tuned"), late=False, toy=True)
    for size in {size.preset: size for size in (*_PRESET_SIZES, *JUDGED_SIZES)}.values()
)
SAMPLE = tuple(map(_sampling, preset_names()))

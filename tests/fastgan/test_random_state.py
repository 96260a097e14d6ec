"""Code that measures, samples, logs or saves leaves every global random number generator as it was."""

import io
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import IterableDataset

import fastgan
from fastgan import exporting, sampling
from fastgan.metrics.collapse import detect_collapse
from fastgan.metrics.digits import digit_network
from fastgan.metrics.features import FeatureNetwork, Features, load_features
from fastgan.metrics.scores import score
from fastgan.models import build_networks
from fastgan.random_state import preserved_random_state, seeded_random_state
from fastgan.training import run as run_module
from fastgan.training.checkpoint import load_trained_generator
from fastgan.training.config import TrainingConfig
from fastgan.training.distributed import Distributed
from fastgan.training.evaluate import FidTracker, Subject
from fastgan.training.logging import Reporter
from fastgan.training.run import find_largest_batch, start_run
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")
SETTINGS = {"base_channels": 4, "latent_dim": 8, "batch_size": 6, "steps": 2, "log_every": 1, "device": "cpu"}
CONFIG = TrainingConfig(model="vanilla", evaluate_every=1, evaluate_count=20, **SETTINGS)


def draw(*_, **__):
    """As a user's own code, or a package, may do: it draws from all generators, and seeds them."""
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(3)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)


def drawing_features(images):
    draw()
    return images.flatten(1)[:, :3].float()


class DrawingGenerator(nn.Module):
    latent_dim, num_classes = 8, None

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, latents):
        draw()
        return self.scale * latents[:, :1, None, None].expand(-1, 1, 32, 32).tanh()


class DrawingLogger:
    def __init__(self, *_):
        draw()

    scalars = text = samples = close = draw


def converted(layer):
    draw()
    replacement = nn.Linear(layer.in_features, layer.out_features)
    replacement.weight, replacement.bias = layer.weight, layer.bias
    return replacement


def accelerate(_, check):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(1))
    x = torch.ones(2, 1, 6, 6)
    model(x)
    model[1].register_forward_hook(draw)
    return lambda: fastgan.accelerate(
        model, mapping={nn.Linear: converted}, check=check, example_inputs=(x,) if check else None
    )


def report(folder):
    def run():
        with Reporter(folder, CONFIG, step=0, num_images=0, console=Console(file=io.StringIO())) as reporter:
            reporter.advance(1)
            reporter.report(1, {"discriminator_loss": 1.0, "generator_loss": 1.0, "fid": 3.0}, num_images=6)
            reporter.samples(1, torch.zeros(4, 1, 8, 8))

    return run


def looked_at(_):
    trainer = Trainer.from_config(CONFIG)
    trainer.step()

    def run():
        trainer.mean_losses()
        trainer.health_figures(trainer.statistics.read(1))
        trainer.first_non_finite()
        trainer.tensors()
        trainer.state()

    return run


def largest_batch(_):
    def tried(trial, _):
        trial()
        raise ZeroDivisionError

    def run():
        # On the CPU in the place of a GPU.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_module, "fits_on_gpu", tried)
            patch.setattr(run_module.Trainer, "from_config", lambda *_, **__: SimpleNamespace(step=draw))
            patch.setattr(run_module, "open_images", lambda *_: None)
            with pytest.raises(ZeroDivisionError):
                find_largest_batch(CONFIG, torch.device("cuda"), Distributed())

    return run


def evaluated(folder):
    start_run(CONFIG, folder / "run", console=Console(file=io.StringIO()))

    def run():
        digit_network.cache_clear()
        Subject(folder / "run", count=20, device="cpu").evaluate(Console(file=io.StringIO()))

    return run


def loaded_run(folder):
    start_run(CONFIG, folder, console=Console(file=io.StringIO()))
    return lambda: load_trained_generator(folder, CPU)


def exported(folder):
    generator = build_networks("vanilla", resolution=8, num_channels=1, latent_dim=8).generator.eval()

    def run():
        fastgan.save_generator(generator, folder)
        fastgan.load_generator(folder)
        exporting.export_torch(generator, folder / "model.pt2")

    return run


def stylegan(_):
    generator = build_networks("stylegan", resolution=8, num_channels=1, latent_dim=8, base_channels=4).generator

    def run():
        sampling.generate(generator, 3)
        sampling.principal_directions(generator)

    return run


def tracked(folder):
    def run():
        digit_network.cache_clear()
        FidTracker(CONFIG, CPU).measure(DrawingGenerator(), 1)

    return run


def scored(_):
    real, generated = (Features(torch.randn(40, 4), torch.randn(40, 3)) for _ in range(2))

    def run():
        score(real, generated, seed=0)
        detect_collapse(real, generated, None, seed=0)

    return run


class DrawingItems(IterableDataset):
    def __iter__(self):
        for _ in range(20):
            draw()
            yield torch.rand(1, 8, 8)


def of_a_stream(_):
    return lambda: fastgan.evaluate(DrawingItems(), torch.rand(20, 1, 8, 8, generator=torch.Generator()), "digits")


OBSERVERS = {
    "accelerate": lambda folder: accelerate(folder, check=False),
    "accelerate with check": lambda folder: accelerate(folder, check=True),
    "a seeded random state": lambda _: seeded_random_state(0)(draw),
    "sampling": lambda _: lambda: sampling.generate(DrawingGenerator(), 3),
    "sampling of stylegan": stylegan,
    "features of a user": lambda _: lambda: FeatureNetwork("f", "", "none", drawing_features)(torch.zeros(2, 1, 8, 8)),
    "loading the digits' features": lambda _: lambda: load_features("digits", CPU),
    "the FID while training": tracked,
    "the FID's scores": scored,
    "evaluation": evaluated,
    "evaluation of an iterable Dataset": of_a_stream,
    "loading a run": loaded_run,
    "exports": exported,
    "reports": report,
    "health and the state": looked_at,
    "the largest batch": largest_batch,
}


@pytest.mark.parametrize("name", OBSERVERS)
def test_an_observer_leaves_all_random_state_as_it_was(tmp_path, monkeypatch, name):
    monkeypatch.setattr("fastgan.training.logging.WandbLogger", DrawingLogger)
    monkeypatch.setattr("fastgan.training.logging.TensorBoardLogger", DrawingLogger)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    observe = OBSERVERS[name](tmp_path)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    observe()
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert torch.equal(before[2], after[2])


@pytest.mark.gpu
def test_the_generators_of_cuda_are_put_back():
    torch.manual_seed(3)
    before = torch.cuda.get_rng_state_all()
    with preserved_random_state():
        torch.rand(3, device="cuda")
        torch.manual_seed(4)
    assert all(torch.equal(a, b) for a, b in zip(before, torch.cuda.get_rng_state_all(), strict=True))


@pytest.mark.gpu
def test_the_generators_of_a_cuda_that_starts_meanwhile_begin_with_their_seeds():
    code = """
import torch
from fastgan.random_state import preserved_random_state, seeded_random_state
torch.manual_seed(3)
with preserved_random_state():
    torch.rand(3, device="cuda")
again = torch.Generator("cuda").manual_seed(3)
print(torch.equal(torch.rand(3, device="cuda"), torch.rand(3, device="cuda", generator=again)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr

"""Runs that are broken on purpose, each in its own way, and whole ones: what training health says of them."""

import pytest
import torch

from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.health import (
    DISCRIMINATOR_TOO_STRONG,
    GENERATOR_TOO_STRONG,
    MODE_COLLAPSE,
    OSCILLATION,
    VANISHING_GRADIENTS,
    diagnose,
)
from fastgan.training.trainer import Trainer

NEVER = 1e-30  # a learning rate that moves nothing


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", resolution=16).images


def points(centers, n=2000, std=0.1, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    chosen = torch.tensor(centers)[torch.randint(len(centers), (n,), generator=generator)]
    x = (chosen + std * torch.randn(n, 2, generator=generator)) / scale
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).view(n, 2, 1, 1)


EIGHT = [(1.0, 1), (1, -1), (-1, 1), (-1, -1), (2, 0), (-2, 0), (0, 2), (0, -2)]


def findings_of(images, steps, *, change=None, **settings):
    """Names of what is told at any report, and of what is told at the last."""
    small = {"model": "mlp", "base_channels": 32, "latent_dim": 8, "batch_size": 32, "lr": 2e-4, "device": "cpu"}
    config = TrainingConfig(**small | {"resolution": images.shape[-1]} | settings)
    trainer = Trainer.from_config(config, ResidentImages(images, None, torch.device("cpu")))
    if change:
        change(trainer)
    ever = set()
    for step in range(1, steps + 1):
        trainer.step()
        if step % 50 == 0:
            trainer.history, _ = diagnose(trainer.history, trainer.statistics.read(step), config.loss)
            trainer.reset_figures()
            ever.update(trainer.history.ongoing)
    return ever, set(trainer.history.ongoing)


@pytest.mark.exhaustive
def test_a_discriminator_with_fifty_times_the_rate_is_too_strong(digits):
    ever, last = findings_of(digits, 350, discriminator_lr=50 * 2e-4)
    assert ever == last == {DISCRIMINATOR_TOO_STRONG}


@pytest.mark.exhaustive
def test_the_discriminator_of_a_frozen_generator_is_too_strong(digits):
    ever, last = findings_of(digits, 350, generator_lr=NEVER)
    assert ever == last == {DISCRIMINATOR_TOO_STRONG}


@pytest.mark.exhaustive
def test_a_generator_is_too_strong_for_a_frozen_discriminator():
    ever, last = findings_of(points(EIGHT), 350, lr=1e-3, discriminator_lr=NEVER)
    assert GENERATOR_TOO_STRONG in last
    # It does run off to the one point that the discriminator likes best.
    assert ever <= {GENERATOR_TOO_STRONG, MODE_COLLAPSE}


def test_gradients_vanish_behind_a_saturated_sigmoid(digits):
    ever, last = findings_of(digits, 350, loss="minimax", discriminator_lr=100 * 2e-4)
    assert ever == last == {DISCRIMINATOR_TOO_STRONG, VANISHING_GRADIENTS}


def one_latent(trainer):
    trainer.gan_step.draw_latents = lambda size: torch.ones(size, trainer.config.latent_dim)


def two_latents(trainer):
    random, shape = trainer.random, (trainer.config.batch_size, trainer.config.latent_dim)
    trainer.gan_step.draw_latents = lambda _: (
        torch.randint(2, (shape[0], 1), generator=random) * 2 - 1 + 0.05 * torch.randn(shape, generator=random)
    )


@pytest.mark.parametrize("change", [one_latent, pytest.param(two_latents, marks=pytest.mark.exhaustive)])
def test_a_generator_of_one_or_two_points_has_collapsed(change):
    _, last = findings_of(points(EIGHT), 350, lr=1e-3, change=change)
    assert MODE_COLLAPSE in last


@pytest.mark.exhaustive
def test_a_generator_of_one_digit_has_collapsed(digits):
    _, last = findings_of(digits, 350, change=one_latent)
    assert MODE_COLLAPSE in last


@pytest.mark.exhaustive
def test_momentum_and_a_high_rate_oscillate():
    _, last = findings_of(points([(0.3, -0.4)], scale=1.0), 400, lr=1e-2, beta1=0.9, base_channels=16)
    assert OSCILLATION in last


def test_a_whole_run_on_points_hears_nothing():
    settings = {"regularizer": "r1", "regularizer_weight": 0.1, "lr": 1e-3}
    assert findings_of(points(EIGHT), 250, **settings) == (set(), set())


@pytest.mark.judged
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "wasserstein", "regularizer": "wgan-gp", "regularizer_weight": 0.3, "beta1": 0.0},
        {"loss": "hinge", "spectral_norm": True},
        {"loss": "least-squares"},
        {"loss": "relativistic-pairing", "regularizer": "r1", "regularizer_weight": 0.1},
    ],
    ids=str,
)
def test_whole_runs_on_points_hear_nothing(settings):
    assert findings_of(points(EIGHT), 1000, lr=1e-3, **settings) == (set(), set())


@pytest.mark.judged
def test_a_whole_run_on_small_digits_hears_nothing(digits):
    settings = {"model": "dcgan", "base_channels": 8, "latent_dim": 32, "lr": 4e-4}
    assert findings_of(digits, 400, **settings) == (set(), set())


@pytest.mark.judged
@pytest.mark.parametrize(("preset", "steps"), [("dcgan", 800), ("vanilla", 2000), ("sngan", 800), ("wgan-gp", 400)])
def test_the_presets_hear_nothing(preset, steps):
    settings = load_preset(preset)
    images = load_dataset("digits", resolution=settings["resolution"]).images
    assert findings_of(images, **settings | {"base_channels": settings.get("base_channels", 0), "steps": steps}) == (
        set(),
        set(),
    )

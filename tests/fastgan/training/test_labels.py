"""Conditional runs: which labels reach which network, and what is refused."""

import pytest
import torch
from PIL import Image

from fastgan.data.sources import ResidentImages
from fastgan.sampling import draw_latents, image_grid, render
from fastgan.training.checkpoint import load_trained_generator
from fastgan.training.config import SettingsError
from fastgan.training.run import start_run
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def labeled():
    """Flat images whose gray level encodes their label, 0 to 4, in no order."""
    labels = torch.tensor([3, 1, 4, 0, 0, 2, 1, 3, 3, 2, 4, 4, 1])
    return (labels * 60).to(torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16).contiguous(), labels


@pytest.fixture
def conditional(tiny, labeled):
    def make(**settings):
        images, labels = labeled
        return Trainer.from_config(tiny(conditional=True, **settings), ResidentImages(images, labels, CPU))

    return make


def updates_of(trainer, num_steps):
    """What the networks are called with, update by update: the generator's call, then the discriminator's."""
    updates = []
    trainer.generator.register_forward_pre_hook(lambda _, args: updates.append([args]))
    trainer.discriminator.register_forward_pre_hook(lambda _, args: updates[-1].append(args))
    for _ in range(num_steps):
        trainer.step()
    return updates


@pytest.mark.parametrize(
    ("settings", "calls"),
    # Calls of the discriminator in the updates of a step: of real and fake images, the penalty, the generator's loss.
    [
        ({}, [3]),
        ({"discriminator_steps": 3}, [2, 2, 3]),
        ({"loss": "relativistic-pairing"}, [4]),
        ({"model": "wgan-gp", "loss": "wasserstein", "regularizer": "wgan-gp"}, [4]),
        ({"model": "wgan-gp", "regularizer": "r2", "discriminator_steps": 2, "regularizer_interval": 2}, [3, 3]),
        ({"model": "sngan", "regularizer": "dragan"}, [4]),
    ],
    ids=str,
)
def test_every_call_of_an_update_has_the_labels_of_its_real_images(conditional, settings, calls):
    trainer = conditional(**settings)
    updates = updates_of(trainer, 2)
    assert [len(of_discriminator) for _, *of_discriminator in updates] == calls * 2
    for (latents, labels), *of_discriminator in updates:
        assert latents.shape == (6, 8)
        real, _ = of_discriminator[0]
        # The gray level of a real image encodes its label.
        assert torch.equal(((real[:, 0, 0, 0] + 1) * 127.5 / 60).round().long(), labels)
        assert all(given is labels for _, given in of_discriminator)
    assert len({tuple(labels.tolist()) for (_, labels), *_ in updates}) == len(updates)


def test_labels_of_an_unconditional_run_are_passed_over(tiny, labeled):
    images, labels = labeled
    trainer = Trainer.from_config(tiny(), ResidentImages(images, labels, CPU))
    assert "num_classes" not in trainer.architecture
    assert all(len(args) == 1 for update in updates_of(trainer, 1) for args in update)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "the data 'digits' carries no labels; expected one for each image"),
        ([0, 10**9], "the data 'digits' has 2 different labels from 0 to 1000000000; expected class numbers from 0"),
        ([1, 2], "2 different labels from 1 to 2; expected class numbers from 0 without gaps"),
        ([0, -1], "2 different labels from -1 to 0; expected"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(tiny, labeled, labels, message):
    images = labeled[0][:2]
    with pytest.raises(SettingsError, match=f"^conditional is true and .*{message}"):
        Trainer.from_config(
            tiny(conditional=True), ResidentImages(images, None if labels is None else torch.tensor(labels), CPU)
        )


def test_a_state_of_other_classes_is_refused(conditional):
    trainer = conditional()
    assert trainer.architecture["num_classes"] == 5
    with pytest.raises(SettingsError, match="the checkpoint has num_classes 9, the run 5"):
        trainer.load(trainer.tensors(), trainer.state() | {"architecture": trainer.architecture | {"num_classes": 9}})


def test_the_samples_of_a_conditional_run_have_a_class_a_column(tmp_path, tiny, console):
    start_run(tiny(conditional=True, steps=2), tmp_path, console=console)
    generator, _ = load_trained_generator(tmp_path, CPU)
    assert generator.num_classes == 10  # of the bundled digits
    labels = torch.tensor([*range(10)] * 7)[:64]
    grid = image_grid(render(generator, draw_latents(64, 8, seed=3), labels), columns=10)
    with Image.open(tmp_path / "samples" / "2.png") as picture:
        assert picture.size == (10 * 34 + 2, 7 * 34 + 2)
        assert picture.tobytes() == grid[0].numpy().tobytes()

from pathlib import Path

import numpy as np
import pytest
import torch
from bare_training import BareTraining
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.data.sources import ResidentImages
from fastgan.losses import LOSSES, get_loss
from fastgan.models import build_networks
from fastgan.seeds import Stream, seed_of
from fastgan.training import trainer as trainer_module
from fastgan.training.config import SettingsError
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.mark.parametrize(("resolution", "updates"), [(16, 1), (28, 1), (16, 3)])  # 28 has dropout
@pytest.mark.parametrize("conditional", [False, True])
def test_steps_equal_bare_torch(tiny, resolution, updates, conditional):
    # The ramp passes 0.4 at step 5.
    config = tiny(resolution=resolution, ema_decay=0.4, discriminator_steps=updates, conditional=conditional)
    images = torch.randint(0, 256, (20, 1, resolution, resolution), dtype=torch.uint8)
    labels = torch.arange(20) * 7 % 5
    bare = BareTraining(config, images, labels if conditional else None)
    losses = [bare.step() for _ in range(8)]
    trainer = Trainer.from_config(config, ResidentImages(images, labels, CPU))
    for expected in losses:
        trainer.step()
        found = list(trainer.mean_losses().values())
        if updates == 1:
            assert found == [loss.item() for loss in expected]
        assert found == pytest.approx([loss.mean().item() for loss in expected], rel=1e-6)
        trainer.reset_figures()
    for ours, theirs in ((trainer.generator, bare.generator), (trainer.discriminator, bare.discriminator)):
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    # The average is rounded in another order: a few units in the last place a step, of values up to the largest.
    averages = zip(trainer.ema.module.state_dict().items(), bare.average.state_dict().values(), strict=True)
    for (name, a), b in averages:
        bound = 8 * 4 * torch.finfo(torch.float32).eps * b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=bound, msg=lambda m, name=name: f"{name}: {m}")


class _CountReads(TorchDispatchMode):
    """Counts what makes a GPU wait: a tensor's value read by Python, and copies to another device."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.reads += name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique")
        if name == "_to_copy":
            self.reads += (kwargs or {}).get("device") not in (None, args[0].device)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    "settings",
    [
        {"resolution": 16},
        {"resolution": 28},
        {"model": "plain", "regularizer": "wgan-gp", "regularizer_interval": 2, "discriminator_steps": 2},
        {"model": "plain", "regularizer": "dragan", "loss": "relativistic-average", "ema_ramp_up": 0.05},
        {"spectral_norm": True, "loss": "hinge"},
        {"model": "wgan-gp", "conditional": True, "regularizer": "wgan-gp", "spectral_norm": True},
        {"model": "plain", "flips": True, "diff_augment": "color,translation,cutout", "accumulate": 3},
        {"model": "plain", "regularizer": "r1", "precision": "float16"},
        {"model": "stylegan", "base_channels": 8, "regularizer": "r1", "precision": "bfloat16", "style_mixing": 0.5},
    ],
    ids=str,
)
def test_a_step_reads_nothing_back(tiny, settings):
    config = tiny(**settings)
    images = torch.randint(0, 256, (20, 1, config.resolution, config.resolution), dtype=torch.uint8)
    trainer = Trainer.from_config(config, ResidentImages(images, torch.arange(20) % 3, CPU))
    with _CountReads() as counter:
        for _ in range(3):
            trainer.step()
    assert counter.reads == 0
    with _CountReads() as counter:
        trainer.loss_sums[0].item()
    assert counter.reads == 1  # the counter does see a read


def test_losses_are_means_since_the_last_report(tiny, images):
    trainer = Trainer.from_config(tiny(), ResidentImages(images, None, CPU))
    each = []
    for _ in range(3):
        before = trainer.loss_sums.clone()
        trainer.step()
        each.append(trainer.loss_sums - before)
    mean = torch.stack(each).mean(0)
    assert list(trainer.mean_losses().values()) == pytest.approx(mean.tolist(), rel=1e-6)
    trainer.reset_figures()
    trainer.step()
    assert trainer.statistics.num_steps == 1


def test_the_generator_step_leaves_the_discriminator_alone(tiny, images):
    trainer = Trainer.from_config(tiny(), ResidentImages(images, None, CPU))
    gradients = []
    trainer.generator_optimizer.register_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in trainer.discriminator.parameters()])
    )
    weights = []
    trainer.generator_optimizer.register_step_pre_hook(
        lambda *_: weights.append([p.clone() for p in trainer.discriminator.parameters()])
    )
    trainer.discriminator_optimizer.register_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in trainer.discriminator.parameters()])
    )
    trainer.step()
    at_discriminator_step, at_generator_step = gradients
    for a, b in zip(at_discriminator_step, at_generator_step, strict=True):
        assert torch.equal(a, b)  # no gradient of the generator's loss has been added
    for a, b in zip(weights[0], trainer.discriminator.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


def test_weights_images_latents_and_noise_have_streams_of_their_own(tiny, images, monkeypatch):
    """Generators of one kind that are seeded alike draw alike: the first latents were the first weights."""
    seeds = []
    build = trainer_module.build_networks
    monkeypatch.setattr(
        trainer_module, "build_networks", lambda *args: (seeds.append(torch.initial_seed()), build(*args))[1]
    )
    for seed in (3, 4):
        trainer = Trainer.from_config(tiny(seed=seed), ResidentImages(images, None, CPU))
        seeds += [trainer.random.initial_seed(), trainer.data_random.initial_seed(), torch.initial_seed()]
    seeds += [3, 4, seed_of(3, Stream.SAMPLES), seed_of(4, Stream.SAMPLES)]
    assert len(set(seeds)) == len(seeds) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "dcgann"}, "did you mean 'dcgan'"),
        ({"loss": "saturating"}, "unknown loss 'saturating'"),
        ({"loss": "hinge", "real_label": 0.9}, "loss 'hinge' has no labels"),
        ({"regularizer": "r3"}, r"unknown regularizer 'r3'; "),
        ({"diff_augment": "colour"}, "unknown augmentation 'colour' in diff_augment; did you mean 'color'"),
        ({"regularizer": "r1"}, "regularizer 'r1' cannot penalize .* model 'dcgan', which has batch normalization"),
    ],
)
def test_what_cannot_be_built_is_a_settings_error(tiny, images, changes, message):
    with pytest.raises(SettingsError, match=message):
        Trainer.from_config(tiny(**changes), ResidentImages(images, None, CPU))


def test_a_state_of_another_device_or_shape_is_refused(tiny, images):
    trainer = Trainer.from_config(tiny(), ResidentImages(images, None, CPU))
    with pytest.raises(SettingsError, match=r"written on cuda.*resume it with device 'cuda'"):
        trainer.load(trainer.tensors(), trainer.state() | {"device": "cuda"})
    with pytest.raises(SettingsError, match="the checkpoint has latent_dim 9, the run 8"):
        trainer.load(trainer.tensors(), trainer.state() | {"architecture": trainer.architecture | {"latent_dim": 9}})


class _Recording:
    """A loss that notes the logits that it is given and what it says of them."""

    def __init__(self, loss):
        self._loss, self.relativistic, self.calls = loss, loss.relativistic, {"discriminator": [], "generator": []}

    def discriminator(self, real, fake):
        return self._note("discriminator", real, fake)

    def generator(self, fake, real):
        return self._note("generator", fake, real)

    def _note(self, side, *logits):
        value = getattr(self._loss, side)(*logits)
        self.calls[side].append(([t if t is None else t.detach() for t in logits], value.detach()))
        return value


def loss_of_each_side(trainer):
    """What a step hands to the losses, and what they say of it: of the discriminator, then of the generator."""
    trainer.gan_step.loss = _Recording(trainer.gan_step.loss)
    trainer.step()
    (discriminator,), (generator,) = trainer.gan_step.loss.calls.values()
    return discriminator, generator


@pytest.mark.parametrize("loss", ["non-saturating", "minimax", "least-squares"])
def test_smoothing_reaches_the_discriminators_loss_and_not_the_generators(tiny, images, loss):
    trainers = [
        Trainer.from_config(tiny(loss=loss, **labels), ResidentImages(images, None, CPU))
        for labels in ({}, {"real_label": 0.9, "fake_label": 0.1})
    ]
    plain, smoothed = (loss_of_each_side(trainer) for trainer in trainers)
    for a, b in zip(plain[0][0], smoothed[0][0], strict=True):
        assert torch.equal(a, b)  # the same logits
    assert plain[0][1] != smoothed[0][1]
    fake = smoothed[1][0][0]
    assert smoothed[1][1] == get_loss(loss).generator(fake)


@pytest.mark.parametrize("name", LOSSES)
def test_each_side_is_trained_by_the_loss_that_is_set(tiny, images, name):
    trainer = Trainer.from_config(tiny(loss=name), ResidentImages(images, None, CPU))
    discriminator, generator = loss_of_each_side(trainer)
    expected = get_loss(name)
    assert discriminator[1] == expected.discriminator(*discriminator[0])
    assert generator[1] == expected.generator(*generator[0])
    assert (generator[0][1] is None) != expected.relativistic
    assert trainer.mean_losses() == {
        "discriminator_loss": discriminator[1].item(),
        "generator_loss": generator[1].item(),
    }


def test_settings_name_the_data_that_are_trained_on(tiny, images, tmp_path, monkeypatch):
    """Paths are absolute, and a Path is never bundled data of that name; a Dataset or tensor is named by its kind."""
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", images.numpy())
    for name in ("relative", "photos"):
        (tmp_path / name).mkdir()
        Image.fromarray(images[0, 0].numpy()).save(tmp_path / name / "a.png")
    given = {"relative": "relative", "photos": Path("photos"), "digits.npy": Path("digits.npy")}

    def made_of(data):
        yield Trainer.from_config(tiny(model="plain"), data)
        networks = build_networks("plain", resolution=16, num_channels=1, latent_dim=8, base_channels=4)
        yield Trainer(*networks, data, config=tiny())
        if isinstance(data, str):
            yield Trainer.from_config(tiny(model="plain", data=data))
            yield Trainer(*networks, config=tiny(data=data))

    for name, data in given.items():
        for trainer in made_of(data):
            assert trainer.config.data == trainer.data == trainer.images.name == str(tmp_path / name)
    for trainer in made_of(images):
        assert trainer.config.data == f"<{trainer.images.name}>" == "<Tensor of shape [20, 1, 16, 16]>"
        assert trainer.data is images

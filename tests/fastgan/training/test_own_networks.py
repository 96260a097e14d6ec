"""Networks of the user: what is refused before the first step, and that a refusal leaves no trace."""

import dataclasses

import numpy as np
import own_networks
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import fastgan
from fastgan.losses import get_loss
from fastgan.sampling import SamplingError
from fastgan.training.check import Tryout
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.precision import Precision

TINY = {"latent_dim": 8, "batch_size": 6, "device": "cpu", "steps": 12, "seed": 3}


class Photos(Dataset):
    """Images as torchvision's datasets give them, with a random transform."""

    def __init__(self, count=20, size=16):
        self.images = np.random.default_rng(0).integers(0, 256, (count, 1, size, size), dtype=np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index]).float() / 255
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), index % 3


def trainer_of(generator, discriminator, **settings):
    return fastgan.Trainer(generator, discriminator, Photos(), **TINY | {"workers": 1} | settings)


class Detached(own_networks.R3Generator):
    def forward(self, z):
        return super().forward(z).detach()


class Fixed(nn.Module):
    """A discriminator that takes batches of 4 only."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 1)

    def forward(self, x):
        return self.linear(x.view(4, 256))  # the line


class Replacing(own_networks.R3Discriminator):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return super().forward(x)


def logits(function):
    discriminator = own_networks.R3Discriminator()
    discriminator.register_forward_hook(lambda module, args, output: function(output))
    return discriminator


def frozen(network):
    return network.requires_grad_(False)


R3 = own_networks.r3gan
MISTAKES = {
    "of another size": (
        lambda: (*R3(), {"resolution": 32}),
        r"the generator makes images \[1, 16, 16\], and those of Photos are \[1, 32, 32\]",
    ),
    "flat images": (
        lambda: (nn.Linear(8, 256), R3()[1], {}),
        r"the generator maps 6 latents \[6, 8\] to float32 \[6, 256\], expected images \[6, C, S, S\]",
    ),
    "the wrong latents": (
        lambda: (*R3(), {"latent_dim": 9}),
        r"the generator cannot take 6 latents \[6, 9\]: .* \(own_n",
    ),
    "no rows of logits": (
        lambda: (R3()[0], logits(torch.mean), {}),
        r"the discriminator maps 6 images \[6, 1, 16, 16\] to float32 \[\], expected logits of each image: \[6\],",
    ),
    "a sigmoid": (
        lambda: (*own_networks.dcgan(), {}),
        r"the discriminator ends in a sigmoid \(main\.6\), and the loss takes logits; remove the sigmoid, or",
    ),
    "nothing to train": (
        lambda: (frozen(R3()[0]), R3()[1], {}),
        "the generator has no parameter that requires gradients",
    ),
    "a detached generator": (
        lambda: (Detached(), R3()[1], {}),
        "no parameter of the generator gets a gradient from the discriminator's output; do not detach",
    ),
    "a fixed batch": (
        lambda: (R3()[0], Fixed(), {}),
        r"the discriminator cannot take 6 images .*: shape .* is invalid .* \(test_own_networks\.py:\d+\)$",
    ),
    "no labels": (lambda: (*R3(), {"conditional": True, "num_classes": 3}), "unknown setting 'num_classes'"),
    "another device": (
        lambda: (R3()[0].to("meta"), R3()[1], {}),
        "basis of the generator is on meta, and the run on cpu; expected networks on the CPU or",
    ),
    "replaced buffers": (
        lambda: (R3()[0], Replacing(), {}),
        "the discriminator replaces its buffer count when it runs; expected it to be written in place",
    ),
    "a loss of one function": (
        lambda: (*R3(), {"loss": torch.mean}),
        "the loss is .* expected a name, a pair of functions",
    ),
    "a wrong schedule": (
        lambda: (*R3(), {"lr": "cosine(1, 2)"}),
        r"setting 'lr' is 'cosine\(1, 2\)', expected a number",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake):
    make, sentence = MISTAKES[mistake]
    generator, discriminator, settings = make()
    with pytest.raises(SettingsError, match=sentence) as refusal:
        trainer_of(generator, discriminator, **settings)
    assert "\n" not in str(refusal.value)


def test_logits_may_lie_in_the_unit_interval_and_a_sigmoid_may_be_anywhere_else():
    networks = own_networks.dcgan()
    assert trainer_of(networks[0], logits(torch.sigmoid), loss="least-squares").notes == []
    assert trainer_of(R3()[0], logits(lambda output: output.clamp(0, 1))).notes == []
    with pytest.raises(SettingsError, match="ends in a sigmoid, and"):
        trainer_of(R3()[0], logits(lambda output: output.sigmoid().view(-1, 1)))


def test_trying_networks_out_changes_neither_buffers_nor_random_state():
    networks = own_networks.sngan()
    for network in networks:
        network(
            torch.randn(*((3, 8) if network is networks[0] else (3, 1, 16, 16)))
        )  # which leaves graphs in the hooks
    before = [{name: t.clone() for name, t in network.state_dict().items()} for network in networks]
    trainer = trainer_of(*networks, loss="hinge")
    for network, expected in zip(networks, before, strict=True):
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        assert all(p.grad is None for p in network.parameters())
    first = trainer.random.get_state(), torch.get_rng_state()
    again = trainer_of(*own_networks.r3gan())
    assert torch.equal(first[0], again.random.get_state())
    assert torch.equal(first[1], torch.get_rng_state())


def test_trying_networks_out_with_dropout_draws_nothing():
    networks = own_networks.conditional(8, 3)
    config = TrainingConfig(latent_dim=8, device="cpu", conditional=True)
    precision = Precision(config, torch.device("cpu"))
    tryout = Tryout(*networks, precision, config, 6)
    before = torch.get_rng_state()
    assert tryout.image_shape() == (1, 16, 16)
    assert tryout.check((1, 16, 16), "photos", 3, get_loss("hinge")) == ([], [])
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_that_nothing_depends_on_are_noted():
    generator, discriminator = own_networks.r3gan()
    generator.spare = nn.Linear(2, 2)
    trainer = trainer_of(generator, discriminator)
    assert trainer.notes == ["2 of 17 parameters of the generator get no gradient, the first of them spare.weight"]
    trainer.step()


class Forgetful(own_networks.R3Discriminator):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x):
        self.mean.lerp_(x.detach().mean(), 0.1)
        return super().forward(self.scale * (x - self.mean))


def test_state_that_is_not_saved_is_noted():
    trainer = trainer_of(own_networks.R3Generator(), Forgetful())
    (note,) = trainer.notes
    assert note.startswith("buffer mean of the discriminator changes when it runs and is not saved (persistent=False)")
    assert trainer.discriminator.mean == 0


class Tied(own_networks.R3Discriminator):
    def __init__(self):
        super().__init__()
        self.blocks[1].first.weight = self.blocks[0].first.weight
        self.register_buffer("both", torch.zeros(4))
        self.register_buffer("part", self.both[:2])


class TiedGenerator(own_networks.R3Generator):
    def __init__(self):
        super().__init__()
        self.blocks[1].first.weight = self.blocks[0].first.weight


def test_a_generator_with_tied_weights_is_exported(tmp_path):
    trainer = trainer_of(TiedGenerator(), own_networks.R3Discriminator())
    fastgan.save_generator(trainer.ema.module, tmp_path)
    loaded = fastgan.load_generator(tmp_path, model=TiedGenerator())
    assert torch.equal(fastgan.sampling.generate(loaded, 2), trainer.sample(2))


def test_tied_weights_and_buffers_are_saved_and_resumed(tmp_path):
    trainers = []
    for _ in range(2):
        torch.manual_seed(0)
        trainers.append(trainer_of(own_networks.R3Generator(), Tied(), out=tmp_path))
    before, after = trainers
    before.step()
    before.save()
    after.resume()
    for trainer in trainers:
        trainer.step()
        trainer.images.close()
    for a, b in zip(before.discriminator.state_dict().values(), after.discriminator.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_frozen_layers_stay_frozen():
    generator, discriminator = own_networks.r3gan()
    frozen(discriminator.from_rgb)
    before = discriminator.from_rgb.weight.clone()
    trainer = trainer_of(generator, discriminator)
    for _ in range(2):
        trainer.step()
    assert torch.equal(discriminator.from_rgb.weight, before)
    assert not discriminator.from_rgb.weight.requires_grad
    assert all(p.requires_grad for p in discriminator.blocks.parameters())


def test_settings_come_from_a_file_and_from_keywords(tmp_path):
    (tmp_path / "mine.toml").write_text("lr = 0.01\nloss = 'hinge'\n[[regularizers]]\nname = 'r1'\nweight = 2\n")
    trainer = trainer_of(*own_networks.r3gan(), config=tmp_path / "mine.toml", lr=0.02)
    assert (trainer.config.lr, trainer.config.loss, trainer.config.penalties) == (0.02, "hinge", (("r1", 2.0, 1),))
    assert trainer.config.resolution == 16  # that of the generator
    config = dataclasses.replace(trainer.config, loss="wasserstein")
    assert trainer_of(*own_networks.r3gan(), config=config).config.loss == "wasserstein"


def test_a_trainer_without_a_folder_samples_but_does_not_fit():
    trainer = trainer_of(*own_networks.conditional(8, 3), conditional=True)
    trainer.step()
    assert torch.equal(trainer.sample(3, seed=1, labels=2), trainer.sample(3, seed=1, labels=[2, 2, 2]))
    assert not torch.equal(trainer.sample(3, seed=1), trainer.sample(3, seed=1, labels=2))
    with pytest.raises(SamplingError, match="labels are from 3 to 3, expected class numbers from 0 to 2"):
        trainer.sample(2, labels=3)
    with pytest.raises(SamplingError, match=r"truncation is 0\.5; expected 1"):
        trainer.sample(2, truncation=0.5)
    for use in (trainer.fit, trainer.save, trainer.resume):
        with pytest.raises(SettingsError, match="the trainer has no folder to write to; give it one with out="):
            use()


def test_steps_by_hand_are_saved_and_resumed(tmp_path, console):
    def make():
        torch.manual_seed(0)
        return trainer_of(*own_networks.r3gan(), out=tmp_path / "run", console=console, steps=6, keep_checkpoints=0)

    by_hand = make()
    for _ in range(3):
        by_hand.step()
    assert by_hand.save() == by_hand.save() == tmp_path / "run" / "checkpoints" / "3"
    trainer = make()
    trainer.fit()
    assert trainer.step_count == 6
    for _ in range(3):
        by_hand.step()
    assert all(map(torch.equal, by_hand.generator.parameters(), trainer.generator.parameters()))
    late = make()
    late.step()
    with pytest.raises(CheckpointError, match="has a checkpoint already; resume it, or give another out"):
        late.fit()
    trainer.fit()  # which has nothing to do
    assert trainer.step_count == 6

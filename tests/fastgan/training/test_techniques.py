"""The settings that change a training step: each is switched on, and what it does to each network is looked at."""

import copy

import pytest
import torch

from fastgan import regularizers
from fastgan.data.sources import ResidentImages
from fastgan.nn import MinibatchDiscrimination, MinibatchStdDev, spectral_norm_
from fastgan.regularizers import REGULARIZERS
from fastgan.seeds import Stream, seed_of
from fastgan.training import build, step
from fastgan.training.config import SettingsError
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")

PENALTIES = {
    "wgan-gp": lambda critic, real, fake, alpha: regularizers.wgan_gp(critic, real, fake, weight=3.0, alpha=alpha),
    "wgan-gp-one-sided": lambda critic, real, fake, alpha: regularizers.wgan_gp(
        critic, real, fake, weight=3.0, one_sided=True, alpha=alpha
    ),
    "r1": lambda critic, real, fake, alpha: regularizers.r1(critic, real, gamma=3.0),
    "r2": lambda critic, real, fake, alpha: regularizers.r2(critic, fake, gamma=3.0),
    "dragan": lambda critic, real, fake, alpha: regularizers.dragan(critic, real, weight=3.0),
}


@pytest.fixture
def trainer_of(tiny, images):
    """A trainer of the model without batch normalization."""

    def make(**settings):
        return Trainer.from_config(tiny(**{"model": "plain"} | settings), ResidentImages(images, None, CPU))

    return make


def at_updates(trainer, name, look):
    """What ``look`` sees right before each update of a network."""
    seen = []
    getattr(trainer, f"{name}_optimizer").register_step_pre_hook(lambda *_: seen.append(look()))
    return seen


def steepen(discriminator):
    """As it is drawn its gradients are shorter than 1, which a one-sided penalty leaves alone."""
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter *= 3


def gradients(network):
    return [p.grad.clone() for p in network.parameters()]


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_adds_its_gradient_to_the_discriminators_and_nothing_to_the_generators(trainer_of, images, name):
    trainer = trainer_of(regularizer=name, regularizer_weight=3.0)
    steepen(trainer.discriminator)
    generator, discriminator = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    drawn = torch.get_rng_state()
    of_discriminator = at_updates(trainer, "discriminator", lambda: gradients(trainer.discriminator))
    of_generator = at_updates(trainer, "discriminator", lambda: [p.grad for p in trainer.generator.parameters()])
    trainer.step()

    # The same step by hand: what it draws, the loss, and the penalty of the same points.
    random, of_data = (
        torch.Generator().manual_seed(seed_of(trainer.config.seed, stream)) for stream in (Stream.LATENTS, Stream.DATA)
    )
    real = images[torch.randint(len(images), (6,), generator=of_data)].float() / 127.5 - 1
    fake = generator(torch.randn(6, 8, generator=random)).detach()
    torch.set_rng_state(drawn)
    trainer.gan_step.loss.discriminator(discriminator(real), discriminator(fake)).backward()
    plain = gradients(discriminator)
    penalty = PENALTIES[name](discriminator, real, fake, torch.rand(6, 1, 1, 1, generator=random))
    penalty.backward()
    for found, expected, without in zip(of_discriminator[0], gradients(discriminator), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        if found.dim() > 1:
            assert not torch.allclose(found, without, rtol=1e-3)
    assert of_generator == [[None] * len(of_generator[0])]
    assert trainer.mean_losses()["penalty"] == pytest.approx(penalty.item(), rel=1e-5)


def test_every_regularizer_is_looked_at_and_no_two_are_one(trainer_of):
    assert PENALTIES.keys() == REGULARIZERS.keys() - {"none"}
    penalties = []
    for name in PENALTIES:
        trainer = trainer_of(regularizer=name)
        trainer.step()
        penalties.append(trainer.mean_losses()["penalty"])
    assert len({round(p, 5) for p in penalties}) == len(PENALTIES)
    assert "penalty" not in trainer_of().mean_losses()


def test_a_lazy_penalty_is_taken_every_so_many_updates_with_so_many_times_the_weight(trainer_of):
    def penalized_updates(trainer, num_steps):
        """Which of the updates to come are penalized, and with which weight."""
        updates = at_updates(trainer, "discriminator", lambda: None)
        real, found = regularizers.r1, []

        def noting(critic, images, fake, weight, **_):
            found.append((len(updates), weight))
            return real(critic, images, gamma=weight)

        (penalty,) = trainer.gan_step.penalties
        trainer.gan_step.penalties = [penalty._replace(function=noting)]
        for _ in range(num_steps):
            trainer.step()
        return found

    settings = {"regularizer": "r1", "regularizer_weight": 2.0, "regularizer_interval": 3, "discriminator_steps": 2}
    first = trainer_of(**settings)
    assert penalized_updates(first, 4) == [(0, 6.0), (3, 6.0), (6, 6.0)]
    second = trainer_of(**settings)
    second.load(first.tensors(), first.state())
    assert penalized_updates(second, 2) == [(1, 6.0)]  # the ninth and the tenth of all are 8 and 9


def test_several_penalties_add_up_each_in_its_own_updates(trainer_of):
    several = trainer_of(regularizers=[("r1", 3.0, 2), {"name": "r2", "weight": "cosine(4, 2, 2)"}])
    r1 = trainer_of(regularizer="r1", regularizer_weight=3.0, regularizer_interval=2)
    r2 = trainer_of(regularizer="r2", regularizer_weight=4.0)
    of_updates = []
    for trainer in (several, r1, r2, trainer_of()):
        of_updates.append(at_updates(trainer, "discriminator", lambda t=trainer: gradients(t.discriminator)))
        trainer.step()
    all_three, of_r1, of_r2 = (trainer.mean_losses()["penalty"] for trainer in (several, r1, r2))
    assert all_three == pytest.approx(of_r1 + of_r2, rel=1e-6)
    for both, first, second, loss in zip(*(updates[0] for updates in of_updates), strict=True):
        torch.testing.assert_close(both - loss, first + second - 2 * loss, rtol=1e-4, atol=1e-6)

    # The second update has r2 only, whose weight is halfway between 4 and 2.
    r2.load(copy.deepcopy(several.tensors()), several.state())
    for trainer in (several, r2):
        trainer.reset_figures()
        trainer.step()
    assert several.mean_losses()["penalty"] == pytest.approx(r2.mean_losses()["penalty"] * 3 / 4, rel=1e-6)


def test_rates_follow_their_schedules(trainer_of):
    trainer = trainer_of(lr="cosine(4e-3, 0.001, 4)", discriminator_lr=lambda step: 1e-3 * (step + 1), beta2=0.9)
    seen = [
        at_updates(trainer, name, lambda o=optimizer: float(o.param_groups[0]["lr"]))
        for name, optimizer in (
            ("generator", trainer.generator_optimizer),
            ("discriminator", trainer.discriminator_optimizer),
        )
    ]
    for _ in range(6):
        trainer.step()
    assert seen[0] == pytest.approx([4e-3, 3.560660e-3, 2.5e-3, 1.439340e-3, 1e-3, 1e-3], rel=1e-5)
    assert seen[1] == pytest.approx([1e-3 * (step + 1) for step in range(6)])


def test_each_update_of_the_discriminator_has_a_batch_of_its_own(trainer_of):
    trainer = trainer_of(discriminator_steps=3)
    batches, discriminator_updates, generator_updates = [], [], []
    loss = trainer.gan_step.discriminator_loss
    trainer.gan_step.discriminator_loss = lambda *given: (batches.append(given[:2]), loss(*given))[1]
    discriminator_updates = at_updates(trainer, "discriminator", lambda: len(batches))
    generator_updates = at_updates(trainer, "generator", lambda: len(batches))
    for _ in range(2):
        trainer.step()
    assert discriminator_updates == [1, 2, 3, 4, 5, 6]
    assert generator_updates == [3, 6]
    for kind in zip(*batches, strict=True):
        assert len({tuple(batch.flatten().tolist()) for batch in kind}) == 6
    assert trainer.step_count == 2


@pytest.mark.parametrize(
    ("settings", "of_generator", "of_discriminator"),
    [
        ({}, 2.0**-8, 2.0**-8),
        ({"generator_lr": 2.0**-10}, 2.0**-10, 2.0**-8),
        ({"discriminator_lr": 2.0**-6}, 2.0**-8, 2.0**-6),
        ({"generator_lr": 2.0**-12, "discriminator_lr": 2.0**-5}, 2.0**-12, 2.0**-5),
    ],
)
def test_each_network_learns_at_its_own_rate(trainer_of, settings, of_generator, of_discriminator):
    """Adam's first update moves a weight by the learning rate, wherever the gradient is far above its epsilon."""
    trainer = trainer_of(lr=2.0**-8, **settings)
    networks = {of_generator: [trainer.generator], of_discriminator: [trainer.discriminator]}
    if of_generator == of_discriminator:
        networks = {of_generator: [trainer.generator, trainer.discriminator]}
    before = copy.deepcopy(networks)
    trainer.step()
    for rate, of_rate in networks.items():
        for network, old in zip(of_rate, before[rate], strict=True):
            moved = [(a - b).abs().max() for a, b in zip(network.parameters(), old.parameters(), strict=True)]
            assert max(moved).item() == pytest.approx(rate, rel=1e-3)


def spectral_norms(network):
    weights = [network[i].weight.flatten(1) for i in (0, 3)]
    return [torch.linalg.matrix_norm(weight, 2).item() for weight in weights]


def test_spectral_norm_holds_the_discriminator_and_leaves_the_generator(trainer_of):
    trainer, free = trainer_of(spectral_norm=True), trainer_of()
    for each in (trainer, free):
        for _ in range(20):
            each.step()
    assert spectral_norms(trainer.discriminator) == pytest.approx([1, 1], abs=0.01)
    assert all(abs(norm - 1) > 0.1 for norm in spectral_norms(free.discriminator))
    assert not any("parametrizations" in name for name in trainer.generator.state_dict())


@pytest.mark.parametrize(
    ("setting", "layer"), [("stddev", MinibatchStdDev), ("discrimination", MinibatchDiscrimination)]
)
def test_a_minibatch_layer_is_in_the_discriminator_alone(tiny, images, setting, layer):
    trainer = Trainer.from_config(tiny(minibatch=setting), ResidentImages(images, None, CPU))
    kinds = [[type(m) for m in network.modules()] for network in (trainer.discriminator, trainer.generator)]
    assert kinds[0].count(layer) == 1
    assert layer not in kinds[1]
    assert trainer.architecture["minibatch"] == setting
    plain = Trainer.from_config(tiny(), ResidentImages(images, None, CPU))
    assert not {MinibatchStdDev, MinibatchDiscrimination} & {type(m) for m in plain.discriminator.modules()}
    assert "minibatch" not in plain.architecture
    with pytest.raises(SettingsError, match=f"the checkpoint has minibatch None, the run '{setting}'"):
        trainer.load(plain.tensors(), plain.state())
    with pytest.raises(SettingsError, match=f"the checkpoint has minibatch '{setting}', the run None"):
        plain.load(trainer.tensors(), trainer.state())


@pytest.mark.parametrize(
    ("settings", "part", "divisor", "cure"),
    [
        ({"minibatch": "stddev", "batch_size": 7}, "a batch of 7", 7, 4),
        ({"minibatch": "stddev", "batch_size": 22, "accumulate": 2}, "a batch of 22 in 2 micro-batches", 11, 8),
        ({"model": "stylegan", "grow_from": 8, "batch_sizes": "8:5", "batch_size": 8}, "a batch of 5", 5, 4),
    ],
)
def test_groups_of_one_are_refused(tiny, images, settings, part, divisor, cure):
    """Their deviation is constant, where the layer is to show the discriminator a collapsed batch."""
    with pytest.raises(SettingsError) as refusal:
        Trainer.from_config(tiny(**settings), ResidentImages(images, None, CPU))
    sentence = str(refusal.value)
    assert sentence.startswith(f"the minibatch standard deviation of {part}")
    assert f"no number from 2 to 4 divides {divisor}; a multiple of {cure} gives groups of 4" in sentence


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"batch_size": 8}, None),
        ({"batch_size": 6}, 3),
        ({"batch_size": 8, "accumulate": 4}, 2),
        ({"batch_size": 2}, 2),
    ],
)
def test_smaller_groups_than_set_are_told(tiny, images, settings, found):
    trainer = Trainer.from_config(tiny(minibatch="stddev", **settings), ResidentImages(images, None, CPU))
    assert [f"is of groups of {found}; a multiple of" in note for note in trainer.notes] == ([True] if found else [])
    assert Trainer.from_config(tiny(**settings), ResidentImages(images, None, CPU)).notes == []


def test_a_model_with_spectral_norms_of_its_own_keeps_them(trainer_of, monkeypatch):
    from fastgan.models import MODELS

    build = MODELS["plain"]

    def normalized(**shape):
        generator, discriminator = build(**shape)
        return generator, spectral_norm_(discriminator)

    monkeypatch.setitem(MODELS, "plain", normalized)
    names = [list(trainer_of(spectral_norm=on).discriminator.state_dict()) for on in (False, True)]
    assert names[0] == names[1]


@pytest.mark.parametrize(("ramp_up", "decay"), [(0.0, 2 / 11), (0.5, 0.25), (0.25, 0.0625)])
def test_the_average_ramps_up_as_set(trainer_of, ramp_up, decay):
    trainer = trainer_of(ema_ramp_up=ramp_up)
    before = trainer.generator[0].weight.detach().clone()
    trainer.step()
    expected = decay * before + (1 - decay) * trainer.generator[0].weight
    torch.testing.assert_close(trainer.ema.module[0].weight, expected, rtol=1e-5, atol=1e-7)


def test_flips_are_of_real_images_alone(trainer_of, monkeypatch):
    flipped = []
    monkeypatch.setattr(step, "random_flip", lambda images: (flipped.append(images), images.flip(3))[1])
    seen = {}
    for flips in (False, True):
        trainer = trainer_of(flips=flips)
        batches = []
        trainer.discriminator.register_forward_pre_hook(lambda _, args, batches=batches: batches.append(args[0]))
        trainer.step()
        seen[flips] = batches[:2]  # real, fake
    assert len(flipped) == 1
    assert torch.equal(seen[True][0], seen[False][0].flip(3))
    assert torch.equal(seen[True][1], seen[False][1])


def test_the_discriminator_sees_augmented_images_only_and_the_generator_learns_through_them(trainer_of, monkeypatch):
    """With an augmentation that leaves the left half: the other half of the generator's images gets no gradient."""
    monkeypatch.setattr(build, "diff_augment", lambda images, policy: images * (torch.arange(16) < 8))
    trainer = trainer_of(diff_augment="cutout", regularizer="r1", loss="relativistic-pairing")
    seen = []
    trainer.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fakes = []
    trainer.generator.register_forward_hook(lambda *given: fakes.append(given[2]) or given[2].retain_grad())
    trainer.step()
    assert len(seen) == 5  # real and fake, the penalty, fake and real for the generator
    assert all((images[..., 8:] == 0).all() and (images[..., :8] != 0).any() for images in seen)
    (fake,) = fakes
    assert (fake.grad[..., :8] != 0).any()
    assert (fake.grad[..., 8:] == 0).all()

"""The graph trainer, with a tape in place of CUDA graphs: replayed steps are the eager ones, bit for bit."""

import pytest
import torch
from tape import Tape

from fastgan.data.sources import ResidentImages
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")


def state_of(trainer):
    """Everything that a step may change."""
    tensors = [t for group, members in trainer.tensors().items() if group != "training" for t in members.values()]
    for optimizer in (trainer.generator_optimizer, trainer.discriminator_optimizer):
        tensors += [t for state in optimizer.state.values() for t in state.values()]
    for scaler in trainer.precision.scalers().values():
        scaler.scale(torch.ones(()))  # makes what it keeps
        tensors += [scaler._scale, scaler._growth_tracker]
    sums = [trainer.loss_sums, *trainer.statistics.tensors().values(), trainer.gan_step.watch.moments()]
    return tensors + sums, [trainer.random, trainer.data_random, torch.default_generator]


def both(config, images, labels=None):
    """An eager trainer, and one of graphs whose recorder is a tape."""
    source = ResidentImages(images, labels, CPU)
    tape = Tape(lambda: state_of(graphed))
    graphed = Trainer.from_config(config(engine="graph"), source, recorder=tape)
    return Trainer.from_config(config(engine="eager"), source), graphed, tape


def train(trainer, steps, log_every=5):
    """The losses, and the state at the end, of a run that reports now and then."""
    losses = []
    torch.manual_seed(1)
    for step in range(1, steps + 1):
        trainer.step()
        if step % log_every == 0:
            losses.append((trainer.mean_losses(), trainer.statistics.read(step)))
            trainer.reset_figures()
    state = {
        f"{group} {name}": t.clone() for group, members in trainer.tensors().items() for name, t in members.items()
    }
    return losses, state, trainer.state()


def assert_equal_runs(eager, graphed, steps):
    expected = train(eager, steps)
    assert_same(train(graphed, steps), expected)


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        assert torch.equal(found[1][name], tensor), name
    assert found[2] == expected[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"flips": True, "diff_augment": "color,translation,cutout"},
        {"precision": "bfloat16", "channels_last": True},
        {"precision": "float16", "regularizer": "r1"},
        {"accumulate": 3, "regularizer": "wgan-gp", "regularizer_interval": 3},
    ],
    ids=lambda s: next(iter(s)) + s.get("precision", ""),
)
def test_settings_that_change_a_step_are_captured(tiny, images, settings):
    eager, graphed, tape = both(lambda **form: tiny(**{"model": "plain"} | settings | form), images)
    assert_equal_runs(eager, graphed, 12)
    assert tape.replayed > 5


@pytest.mark.parametrize("optimizer", ["discriminator_optimizer", "generator_optimizer"])
def test_a_replayed_step_tells_when_a_weight_stopped_being_finite(tiny, images, optimizer):
    """Adam's mean gradient is spoiled between two steps, so that it is the step after that spoils the weights."""
    found = []
    for trainer in both(lambda **form: tiny(model="plain", **form), images)[:2]:
        for step in range(14):
            if step == 11:
                next(iter(getattr(trainer, optimizer).state.values()))["exp_avg"].fill_(float("nan"))
            trainer.step()
        found.append(trainer.first_non_finite())
    assert found[0] == found[1]
    assert found[0].step == 12

"""The graph trainer, with a tape in place of CUDA graphs: replayed steps are the eager ones, bit for bit."""

import pytest
import torch
from tape import Tape

from fastgan.data.sources import ResidentImages
from fastgan.training.config import SettingsError
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
    sums = [trainer.loss_sums, *trainer.statistics.tensors().values(), trainer.gan_step.watch.moments]
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


def sentences(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fastgan.training.trainer"]


LAZY = {"model": "plain", "regularizer": "r1", "regularizer_interval": 3, "loss": "relativistic-pairing"}


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_networks_that_cannot_be_captured_run_eagerly_and_the_line_is_named(tiny, images, caplog, network):
    eager, graphed, tape = both(lambda **form: tiny(**LAZY | form), images)

    def refuse(module, *_):
        # The discriminator's is in the generator's update, where its own parameters need no gradients.
        if tape.recording and (module is graphed.generator or not module[0].weight.requires_grad):
            raise RuntimeError("operation not permitted when stream is capturing")  # the line

    getattr(graphed, network).register_forward_hook(refuse)
    assert_equal_runs(eager, graphed, 12)
    assert graphed.mode == "eager"
    (sentence,) = sentences(caplog)
    assert sentence == graphed.mode_reason
    line = refuse.__code__.co_firstlineno + 3
    assert sentence == (
        "a step cannot be captured: operation not permitted when stream is capturing "
        f"(test_cuda_graph.py:{line}), so steps run without CUDA graphs"
    )
    assert tape.replayed == 0


def test_networks_that_wait_for_the_device_are_never_captured(tiny, images, caplog):
    eager, graphed, tape = both(lambda **form: tiny(**LAZY | form), images)
    tape.waiting.append(" (networks.py:42)")
    assert_equal_runs(eager, graphed, 12)
    assert tape.recorded == 0
    assert sentences(caplog) == ["a step waits for the device (networks.py:42), so steps run without CUDA graphs"]


SCHEDULES = {
    **{"model": "plain", "lr": "cosine(1e-2, 1e-3, 8)", "ema_half_life": "cosine(0, 4, 6)"},
    "regularizers": [
        ("r1", "cosine(3, 0.3, 8)", 2),
        ("r2", 1.0, 1),
        (lambda critic, real, fake: critic(real).mean(), 0.1, 1),
    ],
}


def test_a_graph_follows_schedules(tiny, images):
    eager, graphed, tape = both(lambda **form: tiny(**SCHEDULES | form), images)
    assert_equal_runs(eager, graphed, 12)
    assert tape.replayed > 3
    # And a step without the last values is another one.
    other = Trainer.from_config(tiny(**SCHEDULES | {"lr": "cosine(1e-2, 1e-3, 9)"}), ResidentImages(images, None, CPU))
    assert not torch.equal(*(train(t, 12)[1]["generator 0.weight"] for t in (eager, other)))


def test_no_graph_follows_a_schedule_of_beta2(tiny, images):
    settings = {"model": "plain", "beta2": "cosine(0.5, 0.9, 8)"}
    tape = Tape(None)
    trainer = Trainer.from_config(tiny(**settings), ResidentImages(images, None, CPU), recorder=tape)
    assert (trainer.mode, trainer.mode_reason) == ("eager", "a schedule of beta2 cannot be captured")
    with pytest.raises(SettingsError, match="engine is 'graph' with a schedule of beta2, which a graph cannot follow"):
        Trainer.from_config(tiny(**settings, engine="graph"), ResidentImages(images, None, CPU), recorder=tape)
    seen = []
    trainer.generator_optimizer.register_step_pre_hook(lambda adam, *_: seen.append(adam.param_groups[0]["betas"][1]))
    for _ in range(9):
        trainer.step()
    assert [seen[0], seen[4], seen[8]] == pytest.approx([0.5, 0.7, 0.9])

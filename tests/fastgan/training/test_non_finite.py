"""Which value is named as the first that is not finite, whatever it has spoiled by the time of the report."""

import pytest
import torch

from fastgan.data.sources import ResidentImages
from fastgan.training.statistics import NonFinite
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")
SETTINGS = {"model": "plain", "regularizer": "r1", "discriminator_steps": 2}


@pytest.fixture
def trainer(tiny, images):
    return Trainer.from_config(tiny(**SETTINGS), ResidentImages(images, None, CPU))


def train(trainer, until):
    while trainer.step_count < until:
        trainer.step()


def spoiled(function):
    return lambda *given, **named: function(*given, **named) * float("inf")


class _Spoiled:
    relativistic = False

    def __init__(self, loss, side):
        self.discriminator, self.generator = loss.discriminator, loss.generator
        setattr(self, side, spoiled(getattr(loss, side)))


@pytest.mark.parametrize("name", ["discriminator_loss", "penalty", "generator_loss"])
def test_a_loss_is_named(trainer, name):
    train(trainer, 3)
    assert trainer.first_non_finite() is None
    if name == "penalty":
        (penalty,) = trainer.gan_step.penalties
        trainer.gan_step.penalties = [penalty._replace(function=spoiled(penalty.function))]
    else:
        trainer.gan_step.loss = _Spoiled(trainer.gan_step.loss, name.removesuffix("_loss"))
    train(trainer, 4)
    assert trainer.first_non_finite() == NonFinite(name, 4)
    train(trainer, 8)
    assert trainer.first_non_finite() == NonFinite(name, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("network", "tensor"), [("discriminator", "3.weight"), ("generator", "0.bias")])
def test_a_weight_is_named_that_a_gradient_spoiled(trainer, network, tensor, value):
    """The losses of that step are still finite, except the generator's behind a spoiled discriminator."""
    train(trainer, 3)
    parameter = getattr(trainer, network).get_parameter(tensor)

    def spoil(*given):
        parameter.grad.view(-1)[0] = value

    hook = getattr(trainer, f"{network}_optimizer").register_step_pre_hook(spoil)
    train(trainer, 4)
    hook.remove()
    train(trainer, 7)
    found = trainer.first_non_finite()
    assert found.name == f"{network}.{tensor}"
    assert found.step == 4


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_a_weight_is_named_that_is_spoiled_before_a_report(trainer, network):
    train(trainer, 3)
    with torch.no_grad():
        getattr(trainer, network)[0].bias[1] = float("nan")
    assert trainer.first_non_finite() == NonFinite(f"{network}.0.bias", 3)


def test_a_running_statistic_is_named(tiny, images):
    trainer = Trainer.from_config(tiny(), ResidentImages(images, None, CPU))
    train(trainer, 2)
    name = next(name for name, _ in trainer.generator.named_buffers() if name.endswith("running_var"))
    trainer.generator.get_buffer(name).fill_(float("inf"))
    train(trainer, 4)
    assert trainer.first_non_finite() == NonFinite(f"generator.{name}", 3)


def test_what_no_step_watches_is_found_at_the_report(trainer):
    train(trainer, 2)
    trainer.generator[0].weight.grad[0, 0] = float("nan")
    assert trainer.first_non_finite() == NonFinite("gradient of generator.0.weight", 2)
    train(trainer, 3)
    assert trainer.first_non_finite() is None
    trainer.ema.module[0].bias[0] = float("inf")
    assert trainer.first_non_finite() == NonFinite("averaged_generator.0.bias", 3)

"""The judgement of readings that are made up, and the figures that a reading holds."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from fastgan.data.sources import ResidentImages
from fastgan.losses import LOSSES, get_loss
from fastgan.training.health import (
    DISCRIMINATOR_TOO_STRONG,
    GENERATOR_TOO_STRONG,
    MODE_COLLAPSE,
    OSCILLATION,
    VANISHING_GRADIENTS,
    History,
    diagnose,
)
from fastgan.training.statistics import HealthStatistics, Reading
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")

# What the dcgan preset reads at step 750.
HEALTHY = Reading(
    step=0,
    real_score=1.83,
    fake_score=-1.81,
    d_real=0.788,
    d_fake=0.206,
    ranked_right=0.988,
    ranked_right_variance=0.001,
    generator_gradient=0.03,
    spread=0.94,
    fake_to_real=0.644,
    real_to_fake=0.651,
)
SYMPTOMS = {
    DISCRIMINATOR_TOO_STRONG: {"real_score": 6.0, "fake_score": -7.5},
    GENERATOR_TOO_STRONG: {"ranked_right": 0.11},
    MODE_COLLAPSE: {"spread": 0.04},
    VANISHING_GRADIENTS: {"generator_gradient": 1e-6},
    OSCILLATION: {"ranked_right_variance": 0.12, "ranked_right": 0.6},
}
FIGURES = {
    DISCRIMINATOR_TOO_STRONG: ["13.5", "98.8%"],
    GENERATOR_TOO_STRONG: ["11.0%"],
    MODE_COLLAPSE: ["4.0%"],
    VANISHING_GRADIENTS: ["1.0e-06", "3.0e-02", "98.8%"],
    OSCILLATION: ["0.35", "0.60"],
}


def told(readings, loss="non-saturating", every=50, history=None):
    """The findings at each report, and the last history."""
    history, found = history or History(), []
    for i, reading in enumerate(readings):
        step = (i + 1) * every
        history, findings = diagnose(history, dataclasses.replace(reading, step=step), loss)
        found.append([f.name for f in findings])
    return found, history


def ill(name):
    return dataclasses.replace(HEALTHY, **SYMPTOMS[name])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_healthy_run_hears_nothing(loss):
    healthy = HEALTHY if loss != "least-squares" else dataclasses.replace(HEALTHY, real_score=0.8, fake_score=0.1)
    assert told([healthy] * 60, loss)[0] == [[]] * 60


@pytest.mark.parametrize("name", SYMPTOMS)
def test_a_trouble_is_named_with_its_figures_once_it_lasts_and_over_once_it_is_gone(name):
    readings = [HEALTHY] * 8 + [ill(name)] * 20 + [HEALTHY] * 20
    found, _ = told(readings)
    began = found.index([name])
    ended = began + found[began:].index([])
    assert found == [[]] * began + [[name]] * (ended - began) + [[]] * (48 - ended)
    # A quarter of the steps so far, 50 a report; a median is through half way.
    assert 8 + (1 if name == OSCILLATION else 2) <= began <= 8 + 4
    assert 28 <= ended <= 28 + 9

    history = told(readings[:16])[1]
    _, (finding,) = diagnose(history, dataclasses.replace(ill(name), step=17 * 50), "minimax")
    assert finding.name == name
    for figure in FIGURES[name]:
        assert figure in finding.evidence
    assert len(finding.remedy) > 20


@pytest.mark.parametrize("name", SYMPTOMS)
def test_nothing_is_told_of_the_first_steps_or_of_what_comes_and_goes(name):
    assert told([ill(name)] * 4)[0] == [[]] * 4  # 200 steps
    if name not in (OSCILLATION, GENERATOR_TOO_STRONG):  # back and forth between the two is an oscillation
        assert told([HEALTHY, ill(name)] * 20)[0] == [[]] * 40


@pytest.mark.parametrize("name", [DISCRIMINATOR_TOO_STRONG, MODE_COLLAPSE, VANISHING_GRADIENTS])
def test_what_has_been_told_is_not_over_while_it_comes_and_goes(name):
    found, _ = told([HEALTHY] * 8 + [ill(name)] * 8 + [HEALTHY, ill(name)] * 16)
    began = found.index([name])
    assert found[began:] == [[name]] * (len(found) - began)


@pytest.mark.parametrize("name", SYMPTOMS)
def test_what_is_told_does_not_depend_on_how_often_it_is_reported(name):
    often, seldom = (
        next(i for i, names in enumerate(told([HEALTHY] + [ill(name)] * 1000, every=every)[0], 1) if names) * every
        for every in (1, 50)
    )
    assert 300 <= often <= seldom <= 350


def test_a_critic_that_separates_is_healthy():
    far = dataclasses.replace(HEALTHY, real_score=500.0, fake_score=-500.0, ranked_right=1.0)
    assert told([far] * 40, "wasserstein")[0] == [[]] * 40
    assert told([far] * 40, "hinge")[0][-1] == [DISCRIMINATOR_TOO_STRONG]


def test_a_gradient_that_fades_at_balance_is_healthy():
    """Where the discriminator cannot tell there is nothing to learn, as at the end of a run with R1."""
    faded = dataclasses.replace(HEALTHY, generator_gradient=1e-7, ranked_right=0.55, real_score=0.02, fake_score=0.0)
    assert told([HEALTHY] * 10 + [faded] * 30)[0][-1] == []


def test_a_gradient_that_was_never_there_has_vanished():
    found, _ = told([dataclasses.replace(HEALTHY, generator_gradient=1e-9)] * 10)
    assert found[-1] == [VANISHING_GRADIENTS]


def test_copies_of_one_real_image_are_a_collapse():
    copies = dataclasses.replace(HEALTHY, fake_to_real=0.0, spread=0.5)
    assert told([copies] * 10)[0][-1] == [MODE_COLLAPSE]


def test_a_swing_slower_than_the_reports_is_seen():
    low, high = (dataclasses.replace(HEALTHY, ranked_right=share, ranked_right_variance=0.0) for share in (0.3, 1.0))
    assert told(([low] * 2 + [high] * 2) * 10)[0][-1] == [OSCILLATION]
    # From the discriminator's lead at the beginning to balance, once, is none.
    falling = [dataclasses.replace(HEALTHY, ranked_right=1 - 0.5 * i / 40) for i in range(40)]
    assert not any(told(falling)[0])
    high, middle = (dataclasses.replace(HEALTHY, ranked_right=share, ranked_right_variance=0.0) for share in (1.0, 0.5))
    assert not any(told([high] * 20 + [middle] * 20)[0])


def test_a_history_is_the_same_through_json():
    _, history = told([ill(MODE_COLLAPSE)] * 10)
    assert history.ongoing == (MODE_COLLAPSE,)
    written = json.loads(json.dumps(dataclasses.asdict(history)))
    assert History.from_json(written) == history
    older = {"going_on" if name == "ongoing" else name: value for name, value in written.items()}
    assert History.from_json(older) == history
    assert len(told([HEALTHY] * 1200, every=1)[1].readings) <= 500


def points_of(centers, n, std, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(centers)[torch.randint(len(centers), (n,), generator=generator)]
    return (chosen + std * torch.randn(n, 2, generator=generator)).view(n, 2, 1, 1)


EIGHT = [(1.0, 1), (1, -1), (-1, 1), (-1, -1), (2, 0), (-2, 0), (0, 2), (0, -2)]


def take_in(statistics, real, fake, real_logits, fake_logits):
    """A step, as the trainer takes it in."""
    scored, compared = statistics.due()
    if scored:
        statistics.add_scores(real_logits, fake_logits)
    if compared:
        statistics.add_distances(real, fake)
    statistics.count(len(real))


def read_of(real, fake, real_logits=None, fake_logits=None, num_steps=1):
    network = nn.Linear(3, 2)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    statistics = HealthStatistics(network, CPU)
    zeros = torch.zeros(len(real))
    for _ in range(num_steps):
        take_in(
            statistics,
            *(real, fake, zeros if real_logits is None else real_logits, zeros if fake_logits is None else fake_logits),
        )
    return statistics.read(7)


def test_a_reading_holds_the_figures():
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(9, 1, 2, 3, generator=generator) for _ in range(2))
    real_logits, fake_logits = (torch.randn(9, generator=generator) for _ in range(2))
    reading = read_of(real, fake, real_logits, fake_logits, num_steps=3)
    d = lambda a, b: (a - b).norm().item()  # noqa: E731
    others = [(i, j) for i in range(9) for j in range(9) if i != j]
    scale = sum(d(real[i], real[j]) for i, j in others) / 72
    share = (real_logits > fake_logits).double().mean().item()
    expected = {
        "step": 7,
        "real_score": real_logits.mean().item(),
        "fake_score": fake_logits.mean().item(),
        "d_real": real_logits.sigmoid().mean().item(),
        "d_fake": fake_logits.sigmoid().mean().item(),
        "ranked_right": share,
        "ranked_right_variance": (9 * share**2 - share) / 8 - share**2,
        "generator_gradient": 0.25,
        "spread": sum(d(fake[i], fake[j]) for i, j in others) / 72 / scale,
        "fake_to_real": sum(min(d(f, r) for r in real) for f in fake) / 9 / scale,
        "real_to_fake": sum(min(d(f, r) for f in fake) for r in real) / 9 / scale,
    }
    assert dataclasses.asdict(reading) == pytest.approx(expected, rel=1e-4)


def test_the_variance_of_the_ranking_is_without_that_of_sampling():
    """Batches of 4 pairs that are ranked right by chance, three in four: nothing swings but the sample."""
    generator = torch.Generator().manual_seed(0)
    statistics = HealthStatistics(nn.Linear(1, 1), CPU)
    images = torch.randn(4, 1, 1, 1)
    for parameter in statistics._generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(4 * 1500):  # every fourth is looked at
        wrong = (torch.rand(4, generator=generator) < 0.25).float()
        take_in(statistics, images, images, torch.ones(4), 2 * wrong)
    reading = statistics.read(6000)
    assert reading.ranked_right == pytest.approx(0.75, abs=0.02)
    # The standard error of a variance of n draws is sqrt(2 / n) of it; that of the sample is 0.75 * 0.25 / 4 = 0.047.
    assert abs(reading.ranked_right_variance) < 4 * math.sqrt(2 / 1500) * 0.047


@pytest.mark.parametrize(
    ("centers", "std", "collapsed"),
    [
        (EIGHT, 0.1, False),
        (EIGHT, 0.002, False),  # tight, but whole
        (EIGHT, 0.4, False),
        (EIGHT[:1], 0.1, True),
        ([EIGHT[4], EIGHT[5]], 0.1, True),  # as far apart as can be
        (EIGHT[:2], 0.002, True),
        ([(0.0, 0.0)], 0.3, False),  # untrained: a blob that is like nothing
        ([(0.0, 0.0)], 0.001, True),
    ],
)
@pytest.mark.parametrize("real_std", [0.1, 0.001])
def test_collapse_is_seen_in_a_batch_of_points(centers, std, collapsed, real_std):
    if centers == EIGHT[:1] and real_std == 0.001:
        std = 0.05
    reading = read_of(points_of(EIGHT, 64, real_std, 0), points_of(centers, 64, std, 1))
    found = told([reading] * 10)[0][-1]
    assert (MODE_COLLAPSE in found) == collapsed


@pytest.mark.parametrize("name", LOSSES)
def test_balance_is_where_the_loss_of_the_discriminator_is_least_on_equal_images(name):
    labels = [(1.0, 0.0), (0.9, 0.1), (0.9, 0.0)] if name in ("minimax", "non-saturating", "logistic") else [(1.0, 0.0)]
    for real_label, fake_label in labels:
        loss = get_loss(name, real_label=real_label, fake_label=fake_label)
        if loss.balance() is None:
            assert name not in ("minimax", "non-saturating", "logistic")
            continue
        logits = torch.linspace(-2, 2, 40001, dtype=torch.float64)
        each = torch.stack([loss.discriminator(t[None], t[None]) for t in logits[::100]])
        best = logits[::100][each.argmin()]
        fooled, generator_loss = loss.balance()
        assert fooled == pytest.approx(best.sigmoid().item(), abs=0.005)
        at_balance = torch.tensor([math.log(fooled / (1 - fooled))], dtype=torch.float64)
        assert generator_loss == pytest.approx(loss.generator(at_balance).item(), rel=1e-9)


def test_figures_of_a_step_are_of_the_last_batch(tiny, images):
    trainer = Trainer.from_config(tiny(discriminator_steps=2), ResidentImages(images, None, CPU))
    seen, compared, scored = [], [], []
    loss = trainer.gan_step.discriminator_loss

    def noting(real, fake, labels):
        value, *logits = loss(real, fake, labels)
        seen.append((real, fake, tuple(logits)))
        return value, *logits

    trainer.gan_step.discriminator_loss = noting
    trainer.statistics.add_distances = lambda *given: compared.append(given)
    trainer.statistics.add_scores = lambda *given: scored.append(given)
    trainer.step()
    ((real, fake),) = compared
    assert torch.equal(real, seen[1][0])
    assert torch.equal(fake, seen[1][1])
    assert scored == [seen[1][2]]

import dataclasses
import json

import pytest
import torch

from fastgan.collapse import trials
from fastgan.collapse.remedies import BENCHES, NONE
from fastgan.collapse.trials import Moment, Trial, make_reference, moments_of, run_trial, to_json
from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.metrics.collapse import Answer, Collapse
from fastgan.metrics.measure import generated_batches, measure, real_batches
from fastgan.metrics.shares import Shares
from fastgan.training.statistics import NonFinite
from fastgan.training.trainer import Trainer

TINY = {"base_channels": 8, "batch_size": 4, "latent_dim": 2}


def small(data):
    bench = BENCHES[data]
    return dataclasses.replace(bench, settings={**bench.settings, **TINY})


@pytest.fixture(scope="module")
def references():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "NUM_SAMPLES", 300)
        yield {data: make_reference(bench) for data, bench in BENCHES.items()}


@pytest.fixture
def few_samples(monkeypatch):
    monkeypatch.setattr(trials, "NUM_SAMPLES", 60)


def measured(reference, images):
    found, _ = measure(real_batches(images), reference.network)
    return reference.shares(found).captured, reference.high_quality(found)


def test_moments_are_in_equal_distances_and_the_last_step_is_one():
    assert moments_of(800) == [80, 160, 240, 320, 400, 480, 560, 640, 720, 800]
    assert moments_of(15) == [2, 3, 5, 6, 8, 9, 11, 12, 14, 15]
    assert moments_of(3) == [1, 2, 3]
    assert moments_of(1) == [1]


def test_points_of_two_modes_are_of_high_quality_and_of_two_modes(references):
    dataset = load_dataset("gaussians")
    two = dataset.images[(dataset.labels == 1) | (dataset.labels == 6)][:500]
    captured, quality = measured(references["gaussians"], two)
    # 98.9% of a Gaussian lie within three standard deviations; five standard errors of 500 are 2.3%.
    assert captured == 2
    assert quality == pytest.approx(0.989, abs=0.023)
    between = torch.full((100, 2, 1, 1), 127, dtype=torch.uint8)
    assert measured(references["gaussians"], between) == (0, 0)


def test_noise_is_no_digit_of_high_quality_and_ones_are_one_mode(references):
    reference = references["digits"]
    dataset = load_dataset("digits", resolution=16)
    noise = torch.randint(256, (200, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert measured(reference, noise)[1] < 0.05
    captured, quality = measured(reference, dataset.images[dataset.labels == 1])
    assert captured == 1
    assert quality > 0.5
    # Images that are among those compared with lie in their neighborhoods, so only others are reported.
    assert measured(reference, reference.images[:300][::2])[1] == 1
    assert reference.high_quality_of_real() == measured(reference, reference.images[:300][1::2])[1] < 1


@pytest.mark.parametrize(("data", "remedy"), [(data, name) for data in BENCHES for name in BENCHES[data].remedies()])
def test_every_remedy_trains_and_is_measured(references, few_samples, data, remedy):
    seen = []
    trial = run_trial(small(data), remedy, references[data], steps=2, seed=5, progress=seen.append)
    assert [moment.step for moment in trial.moments] == [1, 2]
    assert seen == [1, 2]
    assert trial.changes == small(data).remedies()[remedy]
    assert trial.moments[-1].shares.num_generated == 60
    assert [answer.way for answer in trial.collapse.answers] == ["looking", "clustering", "score"]
    assert trial.failure is None


def test_the_ema_of_the_generator_is_measured(references, few_samples):
    bench, reference = small("gaussians"), references["gaussians"]
    trial = run_trial(bench, "r1", reference, steps=12, seed=4)
    cpu = torch.device("cpu")
    trainer = Trainer.from_config(bench.config("r1", steps=12, seed=4), ResidentImages(reference.images, None, cpu))
    for _ in range(12):
        trainer.step()
    expected = torch.cat(list(generated_batches(trainer.ema.module, 60, seed=4, labels=None)))
    assert torch.equal(trial.moments[-1].shown, expected)
    assert not torch.equal(trial.moments[0].shown, expected)
    assert [moment.step for moment in trial.moments] == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


def test_the_same_seed_gives_the_same_report_and_another_does_not(references, few_samples):
    bench, reference = small("gaussians"), references["gaussians"]

    def report(seed):
        return to_json(bench, seed, reference, [run_trial(bench, NONE, reference, steps=3, seed=seed)])

    assert json.dumps(report(1)) == json.dumps(report(1))
    assert report(1)["trials"][0]["moments"] != report(2)["trials"][0]["moments"]


def test_non_finite_training_is_an_outcome(references, few_samples, monkeypatch):
    bad = NonFinite("generator_loss", 2)
    monkeypatch.setattr(Trainer, "first_non_finite", lambda trainer: bad if trainer.step_count == 2 else None)
    bench, reference = small("gaussians"), references["gaussians"]
    trial = run_trial(bench, "r1", reference, steps=3, seed=0)
    assert (trial.verdict, trial.captured, len(trial.moments)) == ("not finite", 0, 1)
    assert "generator_loss is the first value that is infinite or not a number, at step 2" in trial.failure
    written = to_json(bench, 0, reference, [trial])["trials"][0]
    assert written["collapse"] is None
    assert written["failure"] == trial.failure
    assert trial.against(outcome("none", 1.0, 2)) == "does not help"


def outcome(remedy, lost, captured, by_score=None):
    """A trial of which two answers say that so much is lost, with so many of eight modes."""
    shares = Shares(
        "modes", list("abcdefgh"), [100] * 8, [100] * captured + [0] * (8 - captured), 800, max(100 * captured, 1)
    )
    answers = (Answer("looking", lost, ""), Answer("clustering", lost, ""), Answer("score", by_score, ""))
    moment = Moment(9, shares, 1.0, torch.zeros(1, 2, 1, 1, dtype=torch.uint8))
    return Trial(remedy, {}, [moment], Collapse(answers, shares))


@pytest.mark.parametrize(
    ("lost", "captured", "said"),
    [
        (0.0, 8, "works"),
        (0.1, 7, "works"),
        (0.5, 4, "helps, not enough"),
        (0.7, 2, "does not help"),
        (0.9, 1, "does not help"),
    ],
)
def test_the_effect_of_a_remedy_is_named(lost, captured, said):
    trial, none = outcome("r1", lost, captured), outcome("none", 0.75, 2)
    assert trial.against(none) == said
    assert none.against(none) == ""


def test_a_remedy_fails_if_one_of_three_answers_is_collapsed():
    trial = outcome("r1", 0.1, 7, by_score=0.3)
    assert trial.verdict == "not collapsed"
    assert trial.against(outcome("none", 0.75, 2)) == "helps, not enough"


def test_a_remedy_is_not_needed_without_collapse():
    assert outcome("r1", 0.0, 8).against(outcome("none", 0.0, 8)) == "not needed"


@pytest.mark.judged
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("data", BENCHES)
def test_without_a_remedy_it_collapses_and_with_a_penalty_it_does_not(data, seed):
    bench = BENCHES[data]
    reference = make_reference(bench)
    found = {remedy: run_trial(bench, remedy, reference, steps=None, seed=seed) for remedy in (NONE, "wgan-gp")}
    print(f"\n{data}, seed {seed}: { ({name: (trial.captured, trial.verdict) for name, trial in found.items()}) }")
    assert found[NONE].verdict == "collapsed"
    assert found[NONE].captured <= len(reference.network.classes.names) / 2
    assert found["wgan-gp"].verdict == "not collapsed"
    assert found["wgan-gp"].captured == len(reference.network.classes.names)

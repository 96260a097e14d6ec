import itertools
import math

import pytest
import torch

from fastgan.metrics import MetricsError
from fastgan.metrics.distances import frechet_distance, kernel_distance
from fastgan.metrics.features import Features
from fastgan.metrics.neighbors import neighbor_scores
from fastgan.metrics.scores import SCALES, Score, differ, inception_score, score, score_values
from tests.fastgan.metrics import digit_sets

EPS = torch.finfo(torch.float64).eps


def normal(count, dimension, *, seed=0, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dimension, generator=random, dtype=torch.float64)


def whitened(count, dimension, seed=0):
    """Mean 0 and the identity as covariance, exactly."""
    x = normal(count, dimension, seed=seed)
    x = x - x.mean(dim=0)
    return torch.linalg.qr(x).Q * (count - 1) ** 0.5


def test_frechet_distance_is_that_of_normal_distributions():
    x = whitened(50, 4)
    mean, deviations = torch.tensor([1.0, 0, -2, 0]), torch.tensor([1.0, 2, 3, 0.5])
    expected = 5 + (deviations - 1).square().sum().item()
    assert frechet_distance(x, whitened(70, 4, seed=1) * deviations + mean) == pytest.approx(expected, rel=100 * EPS)


def test_frechet_distance_of_covariances_that_do_not_commute():
    a, b = normal(4, 4, seed=1), normal(4, 4, seed=2)
    s, t = a.T @ a, b.T @ b
    x = whitened(50, 4)
    # The root's trace by its definition: the eigenvalues of the product.
    root = torch.linalg.eigvals(s @ t).real.sqrt().sum()
    expected = (s.trace() + t.trace() - 2 * root).item()
    # Roots of eigenvalues lose up to half of the digits of the smallest ones.
    assert frechet_distance(x @ a, x @ b) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("count", [2, 10, 64, 65, 300])
def test_frechet_distance_of_a_set_to_itself_is_zero_even_where_its_covariance_is_singular(count):
    x = normal(count, 64, scale=100)
    # The difference of sums of 64 variances of 1e4, which are right to some eps each.
    assert frechet_distance(x, x) <= 64 * 1e4 * 100 * EPS
    assert frechet_distance(x, x.flip(0)) <= 64 * 1e4 * 100 * EPS


def test_frechet_distance_is_right_where_covariances_are_singular():
    # On a line each, at right angles: nothing in common, so all variance counts.
    x = torch.zeros(5, 3, dtype=torch.float64)
    y = torch.zeros(5, 3, dtype=torch.float64)
    x[:, 0] = y[:, 1] = torch.arange(5) - 2.0
    assert frechet_distance(x, y) == pytest.approx(2 * 2.5, rel=100 * EPS)
    assert frechet_distance(x, 3 * x) == pytest.approx(4 * 2.5, rel=100 * EPS)


def test_kernel_distance_is_its_definition():
    x, y = normal(7, 3), normal(5, 3, seed=1) + 1
    total = 0.0
    for first, second, weight in ((x, x, 1 / (7 * 6)), (y, y, 1 / (5 * 4)), (x, y, -2 / (7 * 5))):
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                if first is second and i == j:
                    continue
                total += weight * ((a @ b).item() / 3 + 1) ** 3
    assert kernel_distance(x, y) == pytest.approx(total, rel=1000 * EPS)


def test_inception_score_counts_classes():
    sure = 50 * torch.eye(10, dtype=torch.float64).repeat(3, 1)
    assert inception_score(sure) == pytest.approx(10, rel=1e-12)
    assert inception_score(sure[sure[:, :2].sum(dim=1) > 0]) == pytest.approx(2, rel=1e-12)
    assert inception_score(torch.zeros(5, 10)) == pytest.approx(1, rel=10 * EPS)
    # A half of each: nothing is known of an image that is not known of all.
    assert inception_score(torch.tensor([[0.0, 0, -900]])) == pytest.approx(1, rel=10 * EPS)


def test_neighbor_scores_are_their_definitions():
    real, generated = normal(40, 2), 0.7 * normal(30, 2, seed=1) + 1

    def radius(points, i, k):
        return sorted(math.dist(points[i], other) for other in points.tolist())[k]

    inside = [[math.dist(y, x) <= radius(real, i, 5) for i, x in enumerate(real.tolist())] for y in generated.tolist()]
    precise = [
        any(math.dist(y, x) <= radius(real, i, 3) for i, x in enumerate(real.tolist())) for y in generated.tolist()
    ]
    recalled = [
        any(math.dist(y, x) <= radius(generated, i, 3) for i, x in enumerate(generated.tolist())) for y in real.tolist()
    ]
    # Three neighbors and five tell different things of these.
    assert sum(precise) < sum(map(any, inside))
    found = neighbor_scores(real, generated)
    assert found.precision == pytest.approx(sum(precise) / 30)
    assert found.recall == pytest.approx(sum(recalled) / 40)
    assert found.density == pytest.approx(sum(map(sum, inside)) / (5 * 30))
    assert found.coverage == pytest.approx(sum(map(any, zip(*inside, strict=True))) / 40)
    assert 0 < found.recall < 1
    assert 0 < found.precision < 1
    assert 0 < found.coverage < 1


def test_chunks_of_distances_change_nothing(monkeypatch):
    from fastgan.metrics import distances, neighbors

    real, generated = normal(100, 3), normal(90, 3, seed=1)
    whole = neighbor_scores(real, generated), kernel_distance(real, generated)
    monkeypatch.setattr(neighbors, "_MAX_DISTANCES", 700)
    monkeypatch.setattr(distances, "_ROWS", 7)
    parts = neighbor_scores(real, generated), kernel_distance(real, generated)
    assert parts[0] == pytest.approx(whole[0])
    assert parts[1] == pytest.approx(whole[1], rel=1e-12)


@pytest.mark.exhaustive
def test_the_standard_error_is_the_spread_over_new_samples():
    # 40 pairs of samples of distributions that differ. Their spread is right to 1 / sqrt(2 * 39) = 11%, the mean of 40
    # errors of 20 replicates to 16% / sqrt(40) = 3%; five of both together are 58%.
    found = []
    for seed in range(40):
        real = Features(normal(200, 3, seed=2 * seed), None)
        generated = Features(0.8 * normal(200, 3, seed=2 * seed + 1) + 0.8, None)
        found.append(score(real, generated, seed=0))
    for name in found[0]:
        spread = torch.tensor([row[name].value for row in found]).std().item()
        error = sum(row[name].error for row in found) / len(found)
        assert 0.42 < error / spread < 1.58, name


def test_the_reference_of_fid_is_that_of_two_real_samples():
    # Each of 40 distances of 9 numbers varies by about the half, so that their mean is right to 8%.
    pairs = [(normal(200, 3, seed=2 * seed), normal(200, 3, seed=2 * seed + 1)) for seed in range(40)]
    expected = sum(frechet_distance(*pair) for pair in pairs) / len(pairs)
    references = [score(Features(a, None), Features(b, None), seed=0)["fid"].reference for a, b in pairs[:10]]
    assert sum(references) / len(references) == pytest.approx(expected, rel=5 * 0.08)


def test_larger_samples_are_resampled_in_parts(monkeypatch):
    from fastgan.metrics import scores

    real, generated = Features(normal(600, 3), None), Features(normal(600, 3, seed=1) + 1, None)

    def error(name):
        return sum(score(real, generated, seed=seed)[name].error for seed in range(4)) / 4

    halves = error("fid")
    monkeypatch.setattr(scores, "_MAX_REPLICATE", 60)
    # Each of the means of four is right to 8%; five of both are 57%, and the scaling that is tested is a factor of 3.
    assert abs(math.log(error("fid") / halves)) < 0.57


def test_intervals_stay_within_what_a_score_may_be():
    assert Score(0.01, 0.1, None).interval(SCALES["recall"]) == (0, pytest.approx(0.01 + 0.196))
    assert Score(0.99, 0.1, None).interval(SCALES["recall"])[1] == 1
    assert Score(1.0, 0.1, None).interval(SCALES["kid"])[0] == pytest.approx(0.804)
    assert differ(Score(1.0, 0.1, None), Score(1.3, 0.1, None))
    assert not differ(Score(1.0, 0.1, None), Score(1.27, 0.1, None))


@pytest.mark.parametrize("count", [0, 1, 11])
def test_too_few_images_are_refused(count):
    many, few = (Features(normal(n, 3), None) for n in (20, count))
    for pair in ((many, few), (few, many)):
        with pytest.raises(MetricsError, match=f"{count} (real|generated) images?; scores .* need at least 12"):
            score(*pair, seed=0)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (0, 3)), ((5, 3), (5, 4)), ((5,), (5, 3))])
@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_distances_of_other_shapes_are_refused(distance, shapes):
    with pytest.raises(MetricsError, match=r"expected \[N, F\] and \[M, F\] with N and M from 2"):
        distance(*map(torch.zeros, shapes))


def test_digits_against_themselves_and_their_halves():
    features = digit_sets.features_of_digits()
    assert frechet_distance(features.values, features.values) < 1e-3
    a, b = (digit_sets.at(features, half) for half in digit_sets.halves())
    found = score(a, b, seed=0)
    # Its estimate by resampling, five standard errors to either side.
    assert abs(found["fid"].value - found["fid"].reference) < 5 * found["fid"].error
    assert abs(found["kid"].value) < 5 * found["kid"].error
    for name in ("precision", "recall", "coverage", "inception_score"):
        assert abs(found[name].value - found[name].reference) < 5 * found[name].error


def in_order(values):
    return all(a < b for a, b in itertools.pairwise(values))


def test_scores_follow_noise():
    rows = [digit_sets.scores_of(digit_sets.noisy(amount)) for amount in (0, 40, 160)]
    assert in_order([row["fid"] for row in rows])
    assert in_order([row["kid"] for row in rows])
    assert rows[-1]["precision"] < 0.5 * rows[0]["precision"]
    assert in_order([-row["precision"] for row in rows[1:]])


@pytest.mark.exhaustive
def test_scores_follow_blur():
    rows = [digit_sets.scores_of(digit_sets.blurred(size)) for size in (1, 5, 9)]
    assert in_order([row["fid"] for row in rows])
    assert in_order([row["kid"] for row in rows])


def test_scores_follow_dropped_classes():
    left = [digit_sets.of_classes(*range(first, 10)) for first in (0, 1, 5, 8)]
    features = digit_sets.features_of_digits()
    rows = [score_values(features, digit_sets.at(features, indices)) for indices in left]
    assert in_order([row["fid"] for row in rows])
    assert in_order([row["kid"] for row in rows])
    for name in ("recall", "coverage", "inception_score"):
        assert in_order([-row[name] for row in rows])
    # All of them are real.
    assert all(row["precision"] == 1 for row in rows)

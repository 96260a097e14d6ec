"""The scores against the libraries' on the same features; behind the extra `evaluation`."""

import pytest

from fastgan.metrics.distances import frechet_distance, kernel_distance
from fastgan.metrics.neighbors import neighbor_scores
from fastgan.metrics.scores import inception_score
from tests.fastgan.metrics import digit_sets


def _sets():
    """Real digits, and real and noisy ones of some classes: features in float64 and logits."""
    real = digit_sets.features_of_digits()
    other = digit_sets.features_of(digit_sets.noisy(60)[digit_sets.of_classes(1, 2, 3, 5, 7)])
    return real.values.double(), other.values.double(), other.logits


def test_as_torch_fidelity(torch_fidelity):
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    real, other, logits = _sets()
    fid = metric_fid.fid_statistics_to_metric(*map(metric_fid.fid_features_to_statistics, (real, other)), False)
    assert frechet_distance(real, other) == pytest.approx(fid["frechet_inception_distance"], rel=1e-6)
    count = len(other)
    kid = metric_kid.kid_features_to_metric(real[:count], other, kid_subsets=1, kid_subset_size=count, verbose=False)
    assert kernel_distance(real[:count], other) == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-6)
    prc = metric_prc.prc_features_to_metric(other, real, verbose=False)
    found = neighbor_scores(real, other)
    assert found.precision == pytest.approx(prc["precision"], rel=1e-6)
    assert found.recall == pytest.approx(prc["recall"], rel=1e-6)
    isc = metric_isc.isc_features_to_metric(logits, splits=1)
    assert inception_score(logits) == pytest.approx(isc["inception_score_mean"], rel=1e-6)

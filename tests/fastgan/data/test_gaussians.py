import math

import pytest
import torch

from fastgan.data import load_dataset, normalize
from fastgan.data.gaussians import CENTERS, STANDARD_DEVIATION, are_points, to_images, to_points

BYTE = 5 / 255  # of the plane
# Of a uniform error within half a byte, in each direction.
ROUNDING_VARIANCE = BYTE**2 / 12


@pytest.fixture(scope="module")
def gaussians():
    return load_dataset("gaussians", resolution=1)


def points_of(dataset):
    return to_points(normalize(dataset.images)).double()


def test_points_are_images_of_one_pixel_with_their_modes_as_labels(gaussians):
    assert gaussians.name == "gaussians"
    assert (gaussians.images.dtype, gaussians.images.shape) == (torch.uint8, (10_000, 2, 1, 1))
    assert (gaussians.labels.dtype, gaussians.labels.shape) == (torch.int64, (10_000,))
    again = load_dataset("gaussians")
    assert torch.equal(again.images, gaussians.images)
    assert torch.equal(again.labels, gaussians.labels)


def test_the_centers_are_those_of_the_specification():
    wanted = {(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)} | {(-2.0, 0.0), (2.0, 0.0), (0.0, -2.0), (0.0, 2.0)}
    assert set(CENTERS) == wanted
    assert len(CENTERS) == 8
    assert STANDARD_DEVIATION == 0.1


def test_every_mode_has_its_share(gaussians):
    counts = gaussians.labels.bincount(minlength=8).double()
    # Five standard deviations of a binomial count.
    assert ((counts - 1250).abs() < 5 * math.sqrt(10_000 / 8 * 7 / 8)).all()


@pytest.mark.parametrize("mode", range(8))
def test_a_mode_has_its_center_and_covariance(gaussians, mode):
    deviations = points_of(gaussians)[gaussians.labels == mode] - torch.tensor(CENTERS[mode], dtype=torch.float64)
    n = len(deviations)
    variance = STANDARD_DEVIATION**2 + ROUNDING_VARIANCE
    # Five standard errors of a mean, of a variance and of a covariance of n normal values.
    assert (deviations.mean(0).abs() < 5 * math.sqrt(variance / n)).all()
    covariance = deviations.T.cov()
    assert ((covariance.diag() - variance).abs() < 5 * variance * math.sqrt(2 / (n - 1))).all()
    assert covariance[0, 1].abs() < 5 * variance / math.sqrt(n - 1)


def test_no_point_is_cut_off_at_the_edge(gaussians):
    assert gaussians.images.min() > 0
    assert gaussians.images.max() < 255


def test_points_come_back_from_images():
    points = torch.tensor([[-2.5, 2.5], [0.0, 1.0], [2.0, -0.3]], dtype=torch.float64)
    images = to_images(points)
    assert images.shape == (3, 2, 1, 1)
    assert images[0].flatten().tolist() == [-1, 1]
    # A division and a product, each right to half an epsilon.
    torch.testing.assert_close(to_points(images), points, rtol=2 * torch.finfo(torch.float64).eps, atol=0)


@pytest.mark.parametrize(
    ("shape", "points"), [((3, 2, 1, 1), True), ((3, 1, 1, 1), False), ((3, 2, 2, 2), False), ((3, 3, 1, 1), False)]
)
def test_points_are_distinguished_from_images(shape, points):
    assert are_points(torch.zeros(shape)) is points


def test_points_are_not_resized_into_nonsense(refused):
    refused("gaussians", "points of the plane", "resized to 32x32", "expected resolution 1", resolution=32)


def test_a_folder_of_that_name_is_a_path(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    refused("./gaussians", "no file or folder")

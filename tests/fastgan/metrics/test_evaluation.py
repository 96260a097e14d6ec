"""``fastgan.evaluate``: images of any kind against images of any kind."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, TensorDataset

import fastgan
from fastgan.data import load_dataset
from fastgan.metrics import MetricsError
from fastgan.metrics.cache import digest_of


class Passes(IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits").images[:300]


def test_every_kind_of_images_gives_the_same_report(images, tmp_path):
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{index:03}.png")
    noisy = (images + torch.randint(60, images.shape, generator=torch.Generator().manual_seed(0))).clamp(max=255).byte()
    reports = [
        fastgan.evaluate(noisy, kind, "digits")
        for kind in (
            images,
            images.numpy(),
            images / 255,
            TensorDataset(images),
            list(images),
            Passes(images),
            tmp_path,
        )
    ]
    scores = [report.scores for report in reports]
    assert scores == [scores[0]] * len(scores)
    assert {report.basis.data_digest for report in reports} == {digest_of(images)}
    report = reports[0]
    assert report.fid == report.scores["fid"].value > 0
    assert 0 <= report.precision <= 1
    assert report.run == "Tensor of shape [300, 1, 8, 8]"
    assert report.step is None
    assert report.picture.shape[0] == 3
    with pytest.raises(AttributeError, match="no attribute 'accuracy'"):
        _ = report.accuracy


def test_the_same_images_are_as_good_as_real_ones(images):
    report = fastgan.evaluate(images, images, "digits")
    assert report.fid < 1e-6
    assert report.precision == report.recall == report.coverage == 1


def test_a_function_of_the_program_gives_features_in_batches(images):
    sizes = []

    def means(batch):
        sizes.append(len(batch))
        return batch.float().mean(dim=3).flatten(1)

    report = fastgan.evaluate(images[:70], images, means)
    assert sizes == [64, 64, 64, 64, 44, 64, 6]
    assert report.basis.features.endswith("means")
    assert "inception_score" not in report.scores


def test_images_of_two_sizes_are_compared_at_that_of_the_first(images):
    large = load_dataset("digits", resolution=32).images[:100]
    assert fastgan.evaluate(large, images, "digits").basis.image_size == "1x32x32"


def test_at_most_count_images_of_each_are_chosen_by_the_seed(images):
    one, again, other = (fastgan.evaluate(images, images, "digits", seed, count=40) for seed in (0, 0, 1))
    assert (one.basis.num_real, one.basis.num_generated) == (40, 40)
    assert one.scores == again.scores != other.scores
    assert one.fid > 0.1, "not the same images of both"


def test_images_with_other_channels_are_refused(images):
    with pytest.raises(MetricsError, match=r"have 1 channels, and those of ndarray.* 3; expected the same number"):
        fastgan.evaluate(images, np.zeros((20, 8, 8, 3), np.uint8), "digits")

import torch

from fastgan.data import open_dataset
from fastgan.data.gaussians import CENTERS, to_images
from fastgan.data.pixels import to_uint8
from fastgan.metrics.features import load_features
from fastgan.metrics.measure import (
    BATCH_SIZE,
    choose,
    choose_real,
    generated_batches,
    labels_like,
    measure,
    real_batches,
)
from fastgan.models import build_networks


def generated(count, **options):
    torch.manual_seed(0)
    generator = build_networks("vanilla", resolution=8, num_channels=1, latent_dim=4, base_channels=8).generator
    return torch.cat(list(generated_batches(generator, count, **options)))


def test_images_depend_on_the_seed_and_not_on_the_count():
    few, more = (generated(count, seed=3, labels=None) for count in (BATCH_SIZE + 1, 2 * BATCH_SIZE + 5))
    assert few.dtype == torch.uint8
    assert few.shape == (BATCH_SIZE + 1, 1, 8, 8)
    # Batches of other sizes may round the last bit otherwise.
    assert (few.int() - more[: len(few)].int()).abs().max() <= 1
    assert not torch.equal(few, generated(len(few), seed=4, labels=None))


def test_real_images_are_chosen_by_the_seed_without_replacement():
    digits = open_dataset("digits", resolution=8)
    images, labels = choose_real(digits, 100, seed=0)
    again, _ = choose_real(digits, 100, seed=0)
    others, _ = choose_real(digits, 100, seed=1)
    assert images.shape == (100, 1, 8, 8)
    assert labels.shape == (100,)
    assert torch.equal(images, again)
    assert not torch.equal(images, others)
    drawn = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:100].sort().values.tolist()
    assert drawn != choose(len(digits), 100, seed=0) != choose(len(digits), 100, seed=0, part=1), "streams of their own"
    # All of them are the same for every seed.
    everything, labels = choose_real(digits, 5000, seed=7)
    assert torch.equal(everything, torch.stack([digits[i][0] for i in range(len(digits))]))
    assert torch.equal(labels, digits.labels)


def test_a_conditional_generator_makes_the_classes_of_the_real_images():
    generator = torch.nn.Module()
    generator.num_classes = None
    assert labels_like(torch.tensor([1, 2]), generator, 5) is None
    generator.num_classes = 3
    assert labels_like(torch.tensor([2, 2, 1]), generator, 5).tolist() == [2, 2, 1, 2, 2]
    assert labels_like(None, generator, 5).tolist() == [0, 1, 2, 0, 1]


def test_points_far_from_every_center_are_in_no_mode():
    features = load_features("points", torch.device("cpu"))
    at_centers = to_uint8(to_images(torch.tensor(CENTERS)))
    far = to_uint8(to_images(torch.zeros(4, 2)))
    real, _ = measure(real_batches(at_centers), features)
    found, _ = measure(real_batches(torch.cat([at_centers[:2], far])), features)
    shares = features.shares(real, found)
    assert shares.generated == [1, 1, 0, 0, 0, 0, 0, 0]
    assert shares.num_generated == 6
    assert shares.real == [1] * 8


def test_only_the_first_images_are_kept_to_be_shown():
    images = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    features = load_features("digits", torch.device("cpu"))
    counts = []
    found, shown = measure(real_batches(images), features, counts.append)
    assert shown[:, 0, 0, 0].tolist() == list(range(64))
    assert len(found.values) == 200
    assert sum(counts) == 200

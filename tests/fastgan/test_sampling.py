import pytest
import torch
from PIL import Image
from torch import nn

from fastgan.data import to_uint8
from fastgan.models import build_networks
from fastgan.sampling import columns_by_class, draw_latents, generate, image_grid, render, save_images, save_png


@pytest.fixture
def generator():
    torch.manual_seed(0)
    network = build_networks("dcgan", resolution=16, num_channels=1, latent_dim=9, base_channels=4).generator
    network(torch.randn(32, 9))  # gives batch norm running statistics that are not its first
    return network


class Identity(nn.Module):
    """A generator whose image is its latent, so that what is compared is the drawing and the batching alone."""

    latent_dim = 5

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, latents):
        return latents[:, None, None, :] * self.weight


def test_a_seed_gives_the_same_images_whatever_the_batch_size(generator):
    assert torch.equal(generate(generator, 11, seed=3), generate(generator, 11, seed=3))
    assert not torch.equal(generate(generator, 11, seed=3), generate(generator, 11, seed=4))
    assert torch.equal(generate(Identity(), 11, seed=3, batch_size=4), generate(Identity(), 11, seed=3, batch_size=11))
    # Sums of convolutions may be ordered by the batch: 12 layers of at most 36 products, values up to 1.
    bound = 12 * 36 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(
        generate(generator, 11, seed=3, batch_size=4), generate(generator, 11, seed=3), rtol=0, atol=bound
    )


@pytest.mark.parametrize("more", [1, 6, 29])
def test_more_images_begin_with_the_same_ones(more):
    assert torch.equal(draw_latents(5 + more, 7, seed=1)[:5], draw_latents(5, 7, seed=1))


def test_latents_are_standard_normal():
    latents = draw_latents(2000, 50, seed=0)
    assert latents.shape == (2000, 50)
    # Five standard errors of the mean and variance of 100,000 values.
    assert latents.mean().abs() < 5 / 100_000**0.5
    assert (latents.var() - 1).abs() < 5 * (2 / 100_000) ** 0.5


def test_drawing_leaves_the_global_random_state_alone(generator):
    before = torch.get_rng_state()
    generate(generator, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_rendering_uses_running_statistics_and_restores_the_mode(generator, training):
    generator.train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    images = render(generator, draw_latents(4, 9, seed=0))
    assert generator.training is training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert torch.equal(images, generator.eval()(draw_latents(4, 9, seed=0)).detach())


class ShowsLabels(nn.Module):
    """A conditional generator whose image is its label, beside the latent."""

    latent_dim, num_classes = 2, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, latents, labels):
        return torch.cat([labels[:, None], latents], dim=1)[:, None, None] * self.weight


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_each_image_has_the_label_that_is_asked_for(batch_size):
    labels = torch.tensor([2, 0, 0, 1, 2, 2, 0])
    images = generate(ShowsLabels(), 7, labels=labels, seed=3, batch_size=batch_size)
    assert torch.equal(images[:, 0, 0, 0], labels.float())
    assert torch.equal(images[:, 0, 0, 1:], draw_latents(7, 2, seed=3))  # which do not depend on the labels
    assert generate(ShowsLabels(), 7, batch_size=batch_size)[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("network", "labels", "message"),
    [
        (ShowsLabels(), [0, 3], "labels are from 0 to 3, expected class numbers from 0 to 2"),
        (ShowsLabels(), [-1, 2], "labels are from -1 to 2, expected class numbers from 0 to 2"),
        (ShowsLabels(), [0], r"labels have shape \[1\], expected \[2\], one for each image"),
        (Identity(), [0, 0], "the generator is unconditional and takes no labels"),
    ],
)
def test_labels_that_a_generator_does_not_have_are_refused(network, labels, message):
    with pytest.raises(ValueError, match=message):
        generate(network, 2, labels=torch.tensor(labels))


@pytest.mark.parametrize(
    ("count", "num_classes", "columns"),
    [(64, 10, 10), (64, 2, 8), (64, 3, 6), (64, 16, 16), (64, 17, None), (64, 1000, None), (1, 1, 1), (100, 10, 10)],
)
def test_a_column_holds_one_class_where_a_grid_has_room(count, num_classes, columns):
    assert columns_by_class(count, num_classes) == columns


def test_a_grid_of_16_has_122_pixels():
    images = torch.linspace(-1, 1, 16)[:, None, None, None].expand(16, 1, 28, 28)
    grid = image_grid(images, columns=4, padding=2)
    assert grid.shape == (1, 122, 122)
    assert grid.dtype == torch.uint8
    for i, value in enumerate(to_uint8(torch.linspace(-1, 1, 16))):
        top, left = 2 + i // 4 * 30, 2 + i % 4 * 30
        assert (grid[:, top : top + 28, left : left + 28] == value).all()
    covered = sum(28 * 28 * int(v) for v in to_uint8(torch.linspace(-1, 1, 16)))
    assert int(grid.long().sum()) == covered  # the padding is black


@pytest.mark.parametrize(
    ("count", "columns", "shape"), [(1, None, (3, 9, 8)), (5, None, (3, 16, 20)), (3, 8, (3, 9, 20))]
)
def test_grids_of_any_count_and_shape(count, columns, shape):
    assert image_grid(torch.ones(count, 3, 5, 4), columns=columns).shape == shape


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_pixels(tmp_path, channels):
    pixels = torch.arange(channels * 20, dtype=torch.uint8).reshape(channels, 4, 5)
    save_png(pixels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        assert image.size == (5, 4)
        stored = torch.tensor(list(image.tobytes()), dtype=torch.uint8).reshape(4, 5, channels)
    assert torch.equal(stored.permute(2, 0, 1), pixels)


def test_saved_images_are_a_grid_and_one_file_each(tmp_path, generator):
    images = generate(generator, 6)
    save_images(images, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{i:05d}.png" for i in range(6)), "grid.png"]
    with Image.open(tmp_path / "00005.png") as image:
        assert list(image.tobytes()) == to_uint8(images[5, 0]).flatten().tolist()


def test_truncation_draws_the_images_towards_the_average_one():
    torch.manual_seed(0)
    generator = build_networks("stylegan", resolution=8, num_channels=1, latent_dim=6, base_channels=4).generator
    for _ in range(3):
        generator(torch.randn(16, 6))  # the average is tracked while it trains
    images = {psi: generate(generator, 5, truncation=psi) for psi in (0, 0.5, 1)}
    assert torch.equal(images[1], generate(generator, 5))
    torch.testing.assert_close(images[0], images[0][:1].expand(5, -1, -1, -1))
    variety = {psi: of_psi.std(0).mean().item() for psi, of_psi in images.items()}
    assert variety[0] < variety[0.5] < variety[1]


def test_truncation_of_another_generator_is_refused():
    generator = build_networks("mlp", resolution=1, num_channels=2, latent_dim=2).generator
    with pytest.raises(ValueError, match=r"^truncation is 0.5, and this generator has none"):
        generate(generator, 2, truncation=0.5)

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import to_uint8
from fastgan.sampling import columns_by_class, image_grid, picture, save_images, save_png


@pytest.mark.parametrize(
    ("count", "num_classes", "columns"),
    [(64, 10, 10), (64, 2, 8), (64, 3, 6), (64, 16, 16), (64, 17, None), (64, 1000, None), (1, 1, 1), (100, 10, 10)],
)
def test_a_column_holds_one_class_where_a_grid_has_room(count, num_classes, columns):
    assert columns_by_class(count, num_classes) == columns


def test_a_grid_of_16_has_138_pixels():
    images = torch.linspace(-1, 1, 16)[:, None, None, None].expand(16, 1, 32, 32)
    grid = image_grid(images, columns=4, padding=2)
    assert grid.shape == (1, 138, 138)
    assert grid.dtype == torch.uint8
    for i, value in enumerate(to_uint8(torch.linspace(-1, 1, 16))):
        top, left = 2 + i // 4 * 34, 2 + i % 4 * 34
        assert (grid[:, top : top + 32, left : left + 32] == value).all()
    covered = sum(32 * 32 * int(v) for v in to_uint8(torch.linspace(-1, 1, 16)))
    assert int(grid.long().sum()) == covered  # the padding is black


@pytest.mark.parametrize(
    ("count", "columns", "shape"), [(1, None, (3, 54, 44)), (5, None, (3, 106, 128)), (3, 8, (3, 54, 128))]
)
def test_grids_of_any_count_and_shape(count, columns, shape):
    assert image_grid(torch.ones(count, 3, 50, 40), columns=columns).shape == shape


def test_tiny_images_are_enlarged_by_a_whole_number():
    images = torch.rand(2, 1, 8, 5) * 2 - 1
    grid = image_grid(images)
    assert grid.shape == (1, 4 * 8 + 4, 2 * 4 * 5 + 6)
    assert torch.equal(grid[:, 2:34:4, 2:22:4], to_uint8(images[0]))
    assert torch.equal(grid[:, 2:34:4, 2:22:4], grid[:, 5:34:4, 5:22:4])
    assert image_grid(torch.rand(1, 1, 31, 31)).shape == (1, 66, 66)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_pixels(tmp_path, channels):
    pixels = torch.arange(channels * 20, dtype=torch.uint8).reshape(channels, 4, 5)
    save_png(pixels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        assert image.size == (5, 4)
        stored = torch.tensor(list(image.tobytes()), dtype=torch.uint8).reshape(4, 5, channels)
    assert torch.equal(stored.permute(2, 0, 1), pixels)


def test_saved_images_are_a_grid_and_one_file_each(tmp_path):
    images = torch.rand(6, 1, 16, 16) * 2 - 1
    save_images(images, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{i:05d}.png" for i in range(6)), "grid.png"]
    with Image.open(tmp_path / "00005.png") as image:
        assert list(image.tobytes()) == to_uint8(images[5, 0]).flatten().tolist()


def test_names_stand_in_margins_beside_an_unchanged_grid():
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    plain = image_grid(images, columns=3)
    named = image_grid(images, columns=3, row_names=["0", "class 3"], column_names=["a", "b", "c"])
    height, width = plain.shape[1:]
    top, left = named.shape[1] - height, named.shape[2] - width
    assert top > 0
    assert left > 0
    assert torch.equal(named[:, top:, left:], plain)
    assert named[:, :top, :left].max() == 0
    beside = named[0, top:, :left]
    rows = [beside[: 34 + 2], beside[34 + 2 :]]
    assert all(row.max() > 0 for row in rows)
    assert (rows[1] > 0).sum() > 3 * (rows[0] > 0).sum()  # a longer name is more ink
    above = named[0, :top, left:]
    assert all(above[:, 2 + 34 * i : 34 + 34 * i].max() > 0 for i in range(3))


def test_column_names_that_would_touch_are_left_out():
    one = image_grid(torch.full((1, 1, 32, 60), -1.0), column_names=["+0.12"]).sum()
    assert one > 0
    eight = image_grid(torch.full((8, 1, 32, 16), -1.0), columns=8, column_names=["+0.12"] * 8).sum()
    # The text is longer than one image of 16 pixels and shorter than two with what is between them.
    assert (eight / one).round() in (3, 4)


def test_a_picture_of_points_is_a_scatter_plot_also_with_names():
    points = torch.rand(5, 2, 1, 1)
    assert torch.equal(picture(points, row_names=["a"]), picture(points))
    assert np.asarray(picture(points)).shape == (3, 400, 400)

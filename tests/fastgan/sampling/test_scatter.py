import pytest
import torch
from PIL import Image

from fastgan.data.gaussians import CENTERS, to_images
from fastgan.sampling import picture, save_images, scatter

BLUE = torch.tensor([31, 90, 180])


def blue(image):
    """Where samples are drawn, [H, W]."""
    return (image == BLUE[:, None, None]).all(0)


@pytest.mark.parametrize(
    ("point", "row", "column"), [((0.0, 0.0), 200, 200), ((1.5, 0.25), 180, 320), ((-0.5, -1.75), 340, 160)]
)
def test_a_point_is_drawn_where_it_is(point, row, column):
    where = blue(scatter(torch.tensor([point]))).nonzero()
    # 80 pixels a unit, y upwards; two pixels wide.
    assert where.tolist() == [[r, c] for r in (row - 1, row) for c in (column - 1, column)]


def test_the_data_lie_behind_and_the_centers_are_marked():
    empty = scatter(torch.zeros(0, 2))
    assert empty.shape == (3, 400, 400)
    assert empty.dtype == torch.uint8
    assert not blue(empty).any()
    for x, y in CENTERS:
        row, column = round((2.5 - y) * 80), round((x + 2.5) * 80)
        window = empty[:, row - 6 : row + 6, column - 6 : column + 6]
        assert (window == 222).all(0).any(), "dim points of the data near the center"
        assert empty[:, row, column + 24].tolist() == [214, 48, 36], "a circle of three standard deviations"
    assert blue(scatter(torch.tensor(CENTERS))).sum() == 8 * 4, "over what is behind"


def test_what_cannot_be_seen_is_not_drawn():
    points = torch.tensor([[torch.nan, 0.0], [torch.inf, 0.0], [7.0, 0.0]])
    assert torch.equal(scatter(points), scatter(points[:0]))


def test_points_are_pictured_as_a_scatter_and_other_images_as_a_grid(tmp_path):
    points = torch.tensor([[1.5, 0.25], [-0.5, -1.75]])
    assert torch.equal(picture(to_images(points)), scatter(points))
    assert picture(torch.zeros(4, 1, 1, 1)).shape == (1, 70, 70)

    files = save_images(to_images(points), tmp_path)
    assert (
        [path.name for path in files]
        == ["points.png", "points.csv"]
        == sorted((path.name for path in tmp_path.iterdir()), reverse=True)
    )
    header, *rows = (tmp_path / "points.csv").read_text().splitlines()
    assert header == "x,y"
    assert rows == ["1.5,0.25", "-0.5,-1.75"]
    with Image.open(tmp_path / "points.png") as image:
        assert image.size == (400, 400)

import pytest
import torch
from torch.nn import functional as F

from fastgan.nn import Blur


def image(n: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, n, n + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_usual_blur():
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    expected = F.conv2d(image(), torch.outer(taps, taps).expand(3, 1, 3, 3), padding=1, groups=3)
    torch.testing.assert_close(Blur((1, 2, 1)).double()(image()), expected)
    torch.testing.assert_close(Blur((1, 2, 1))(image()), expected)  # taps are exact in any type


@pytest.mark.parametrize("kernel", [(1,), (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 1)])
def test_sizes_and_brightness(kernel: tuple[int, ...], up: int, down: int):
    x = torch.ones(1, 2, 12, 18, dtype=torch.float64)
    y = Blur(kernel, up=up, down=down)(x)
    assert y.shape == (1, 2, 12 * up // down, 18 * up // down)
    # A period of the inserted zeros, away from the edge.
    rows = y[0, 0, 2 * up : 3 * up] if up > 1 else y[0, 0, 2:-2]
    cols = rows[:, 2 * up : 3 * up] if up > 1 else rows[:, 2:-2]
    assert cols.mean().item() == pytest.approx(1)


def center(y: torch.Tensor) -> tuple[float, float]:
    """Of a bright spot, in pixels: row and column."""
    y = y[0, 0] / y.sum()
    rows, cols = (torch.arange(n, dtype=y.dtype) for n in y.shape)
    return (y.sum(1) @ rows).item(), (y.sum(0) @ cols).item()


def test_where_a_pixel_goes():
    x = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    x[0, 0, 8, 7] = 1
    assert center(Blur((1, 2, 1))(x)) == pytest.approx((8, 7))
    assert center(Blur()(x)) == pytest.approx((8.5, 7.5))
    # A pixel becomes two by two, whose center lies between them, and the same in return.
    doubled = Blur(up=2)(x)
    assert center(doubled) == pytest.approx((16.5, 14.5))
    assert center(Blur(down=2)(doubled)) == pytest.approx((8, 7))


def test_it_has_no_state_and_moves_with_the_model():
    blur = Blur()
    assert not blur.state_dict()
    assert blur.to("meta").kernel.is_meta
    assert Blur((1, 3, 3, 1)).half().kernel.tolist() == [[1, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": ()}, "kernel is"),
        ({"kernel": (1, -1)}, "expected taps of a sum that is not 0"),
        ({"up": 0}, "up is 0"),
        ({"up": 2, "down": 2}, "one of them 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Blur(**arguments)

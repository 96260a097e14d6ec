import itertools
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.data import augment, diff_augment, random_flip
from fastgan.data.augment import check_policy, parse_policy

EVERYTHING = ("color", "translation", "cutout")
POLICIES = [("color",), ("translation",), ("cutout",), EVERYTHING]


def images(*shape: int, dtype: torch.dtype = torch.float64, channels_last: bool = False) -> torch.Tensor:
    """In [-1, 1], and without two equal values or a zero, so that a moved pixel is known by its value."""
    count = int(np.prod(shape))
    values = (torch.randperm(count, generator=torch.Generator().manual_seed(0)) + 0.5) / count * 2 - 1
    values[values == 0] = 1 / count
    values = values.to(dtype).reshape(shape)
    return values.to(memory_format=torch.channels_last) if channels_last else values


@pytest.mark.parametrize("channels", [1, 3])
def test_color_from_its_definition(monkeypatch, channels):
    """Sample by sample in numpy, with numbers of our own for what is drawn."""
    x = images(4, channels, 5, 6)
    drawn = torch.rand(3, 4, dtype=torch.float64).numpy()
    draws = iter(drawn if channels == 3 else drawn[[0, 2]])
    monkeypatch.setattr(augment, "_uniform", lambda images: torch.from_numpy(next(draws)).view(-1, 1, 1, 1))
    result = diff_augment(x, ("color",)).numpy()
    assert next(draws, None) is None
    for sample, found, (brightness, saturation, contrast) in zip(x.numpy(), result, drawn.T, strict=True):
        expected = sample + brightness - 0.5
        for i, j in itertools.product(range(5), range(6)):
            gray = sum(expected[:, i, j]) / channels
            expected[:, i, j] = [gray + 2 * saturation * (value - gray) for value in expected[:, i, j]]
        mean = sum(expected.flatten()) / expected.size
        expected = mean + (contrast + 0.5) * (expected - mean)
        # At most 90 additions for the mean and 9 other operations, on values below 6 and doubled or less afterwards.
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * 2 * 6 * np.finfo(np.float64).eps)


def test_what_color_draws():
    """The three numbers of each sample, from what they do to an image of three values."""
    x = torch.tensor([[-0.5, 0.25, 0.5], [0.25, 0.5, -0.5]], dtype=torch.float64).T[None, :, :, None]  # [1, 3, 2, 1]
    x = x.expand(20_000, -1, -1, -1)
    torch.manual_seed(0)
    y = diff_augment(x, ("color",))
    brightness = (y - x).mean((1, 2, 3))
    # Both pixels have the same gray, so saturation and contrast change no more than their product.
    product = (y[:, 2, 0] - y[:, 1, 0]) / (x[:, 2, 0] - x[:, 1, 0])
    assert -0.5 <= brightness.min() < -0.499
    assert 0.499 < brightness.max() <= 0.5
    assert 0 <= product.min() < 0.01
    assert 2.9 < product.max() < 3
    # Means of uniform numbers: 0, and 1 * 1; the standard error is below 0.005 for both.
    assert abs(brightness.mean()) < 0.02
    assert abs(product.mean() - 1) < 0.02
    gray = diff_augment(x[:, :1], ("color",))
    contrast = (gray[:, 0, 0] - gray[:, 0, 1]) / (x[:, 0, 0] - x[:, 0, 1])
    assert 0.5 <= contrast.min() + 1e-9 < 0.501
    assert 1.499 < contrast.max() - 1e-9 < 1.5


def moved(sample: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros_like(sample)
    _, height, width = sample.shape
    for i, j in itertools.product(range(height), range(width)):
        if 0 <= i - down < height and 0 <= j - right < width:
            result[:, i, j] = sample[:, i - down, j - right]
    return result


def with_a_hole(sample: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    result = sample.copy()
    result[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 0
    return result


def counted(policy: str, sample: torch.Tensor, candidates: dict, channels_last: bool, count: int) -> dict:
    """How often each of the results that may be is the result; one that may not be fails."""
    torch.manual_seed(0)
    batch = sample.expand(count, -1, -1, -1).contiguous()
    batch = batch.to(memory_format=torch.channels_last) if channels_last else batch
    names = {candidate.tobytes(): name for name, candidate in candidates.items()}
    found = [names[np.ascontiguousarray(image).tobytes()] for image in diff_augment(batch, (policy,)).numpy()]
    return {name: found.count(name) for name in candidates}


def assert_all_as_often(counts: dict, count: int) -> None:
    expected = count / len(counts)
    # Five standard deviations of a binomial.
    assert max(abs(found - expected) for found in counts.values()) < 5 * expected**0.5, counts


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("height", "width", "down", "right"), [(8, 13, 1, 2), (4, 11, 1, 1)])
def test_translation_by_any_number_of_pixels_up_to_an_eighth(height, width, down, right, channels_last):
    x = images(1, 3, height, width)
    shifts = itertools.product(range(-down, down + 1), range(-right, right + 1))
    candidates = {shift: moved(x[0].numpy(), *shift) for shift in shifts}
    assert_all_as_often(counted("translation", x, candidates, channels_last, 1500), 1500)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 4), (3, 2)])
def test_cutout_of_a_square_of_half_the_size_with_its_center_anywhere(height, width):
    x = images(1, 2, height, width)
    tall, wide = (height + 1) // 2, (width + 1) // 2
    # A center is a pixel where the length is odd, and a border between pixels, or of the image, where it is even.
    tops = [center - tall // 2 for center in range(height + (tall % 2 == 0))]
    lefts = [center - wide // 2 for center in range(width + (wide % 2 == 0))]
    corners = itertools.product(tops, lefts)
    candidates = {corner: with_a_hole(x[0].numpy(), *corner, tall, wide) for corner in corners}
    assert len({candidate.tobytes() for candidate in candidates.values()}) == len(candidates)
    assert_all_as_often(counted("cutout", x, candidates, False, 3000), 3000)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_half_of_the_images_are_mirrored(dtype, channels_last):
    x = (images(1, 3, 4, 5) * 100 + 128).to(dtype).repeat(1000, 1, 1, 1)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    torch.manual_seed(0)
    y = random_flip(x)
    assert (y.dtype, y.stride()) == (dtype, x.stride())
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert ((y == x).flatten(1).all(1) ^ mirrored).all()
    assert 420 < mirrored.sum() < 580  # five standard deviations, of sqrt(1000) / 2


def test_the_order_is_always_the_same():
    x = images(4, 3, 8, 8)
    results = []
    for policy in (EVERYTHING, EVERYTHING[::-1]):
        torch.manual_seed(0)
        results.append(diff_augment(x, policy))
    torch.manual_seed(0)
    results.append(augment._cutout(augment._translation(augment._color(x))))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert diff_augment(x, ()) is x


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("policy", POLICIES)
def test_types_and_layouts(policy, dtype, channels_last):
    """The same draws in every type, and the result in the type and the layout of the images."""
    x = images(5, 3, 8, 8, channels_last=channels_last).to(dtype)
    torch.manual_seed(3)
    y = diff_augment(x, policy)
    torch.manual_seed(3)
    exact = diff_augment(x.double(), policy)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    # Twelve operations round values up to 2 |y| + 2, and each error grows by saturation and contrast, at most 3.
    tolerance = 12 * 3 * torch.finfo(dtype).eps / 2 * (2 * exact.abs().max() + 2) if "color" in policy else 0
    assert (y.double() - exact).abs().max() <= tolerance


def test_two_orders_of_gradients():
    x = images(2, 3, 4, 4, channels_last=True).requires_grad_()

    def augmented(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        # The square has a second derivative of its own to carry.
        return diff_augment(x, EVERYTHING).square()

    torch.autograd.gradcheck(augmented, x)
    torch.autograd.gradgradcheck(augmented, x, fast_mode=True)


class _OnTheDevice(TorchDispatchMode):
    """Refuses tensors elsewhere than on the device "meta", which has no values that anything could depend on."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            assert not isinstance(tensor, torch.Tensor) or tensor.is_meta, func
        return result


def step(x: torch.Tensor) -> torch.Tensor:
    return diff_augment(random_flip(x), EVERYTHING)


def test_nothing_waits_for_the_device():
    x = torch.empty(4, 3, 8, 8, device="meta", requires_grad=True)
    with _OnTheDevice():
        step(x).sum().backward()


@pytest.mark.exhaustive
def test_compiles_whole():
    x = images(4, 3, 8, 8, dtype=torch.float32).requires_grad_()
    gradients = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(2)
        (gradient,) = torch.autograd.grad(function(x).square().sum(), x)
        gradients.append(gradient)
    assert torch.equal(*gradients)


@pytest.mark.gpu
def test_a_cuda_graph_holds_it_and_draws_anew():
    x = images(64, 3, 8, 8, dtype=torch.float32).cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step(x)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(x)
    results = []
    for _ in range(2):
        graph.replay()
        results.append(y.clone())
    assert results[0].isfinite().all()
    assert not torch.equal(*results)


def test_a_policy_is_read():
    assert parse_policy("color,translation,cutout") == EVERYTHING
    assert parse_policy(" cutout , color ") == ("cutout", "color")
    assert parse_policy("") == parse_policy(" ") == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colour", "unknown augmentation 'colour' in diff_augment; did you mean 'color'?"),
        ("xyz", "unknown augmentation 'xyz' in diff_augment; choose from color, translation, cutout"),
        ("color, color", "diff_augment names 'color' twice"),
    ],
)
def test_a_policy_that_is_none(text, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("policy", "shape", "images"),
    [
        ("color", (2, 1, 1), "1x1 with 2 channels; expected 1 or 3 channels"),
        ("translation", (3, 1, 1), "1x1 with 3 channels; expected at least 4x4"),
        ("translation", (1, 8, 3), "3x8 with 1 channel; expected at least 4x4"),
        ("cutout", (3, 1, 1), "1x1 with 3 channels; expected at least 2x2"),
    ],
)
def test_images_that_it_says_nothing_of(policy, shape, images):
    for refuse in (lambda: check_policy((policy,), shape), lambda: diff_augment(torch.zeros(2, *shape), (policy,))):
        with pytest.raises(ValueError, match=f"^diff_augment '{policy}' got images of {images}$"):
            refuse()
    check_policy(EVERYTHING, (3, 4, 4))

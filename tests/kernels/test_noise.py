"""The noise that kernels draw: the numbers of the reference, whatever the shape, and standard normal."""

import pytest
import torch
import triton
import triton.language as tl

from fastgan_kernels import reference
from fastgan_kernels.noise import draw_seed, normal_noise, standard_normal
from tests.kernels.harness import DEVICE, lay_out

# A radius of up to 5.68 times a cosine whose angle, up to 2 pi, is off by a rounding, and the rounding of both.
ROUNDING = 5.68 * (2 * torch.pi + 4) * torch.finfo(torch.float32).eps


def seed_of(value: int) -> torch.Tensor:
    return torch.tensor([value], device=DEVICE)


@triton.jit
def _draw_kernel(numbers_ptr, of_triton_ptr, counters_ptr, seed_ptr, COUNT: tl.constexpr):
    lane = tl.arange(0, COUNT)
    counter = tl.load(counters_ptr + lane)
    tl.store(numbers_ptr + lane, standard_normal(seed_ptr, counter))
    tl.store(of_triton_ptr + lane, tl.randn(tl.load(seed_ptr), counter))


def draw(seed: int, counters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    numbers, of_triton = (torch.empty(len(counters), device=DEVICE) for _ in range(2))
    _draw_kernel[(1,)](numbers, of_triton, counters, seed_of(seed), COUNT=len(counters))
    return numbers, of_triton


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 7, 2**63 - 2])
@pytest.mark.parametrize("start", [0, 2**31 - 512, 2**32 - 512, 2**45 + 3])
def test_kernel_reference_and_triton_draw_the_same_numbers(seed: int, start: int):
    counters = torch.arange(start, start + 1024, device=DEVICE)
    numbers, of_triton = draw(seed, counters)
    torch.testing.assert_close(numbers, reference.standard_normal(seed_of(seed), counters), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(numbers, of_triton, rtol=0, atol=ROUNDING)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


@pytest.mark.parametrize("distance", [1, 2**31, 2**32, 2**33, 2**48], ids=lambda d: f"2^{d.bit_length() - 1}")
def test_numbers_far_apart_do_not_correlate(distance: int):
    """A counter of 32 bits would repeat itself after 2^32 pixels."""
    counters = torch.arange(4096, device=DEVICE)
    here, there = draw(5, counters)[0], draw(5, counters + distance)[0]
    # Five standard deviations of the correlation of independent samples.
    assert abs(correlation(here, there)) < 5 / 4096**0.5


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 61])
def test_seeds_of_one_bit_difference_do_not_correlate(bit: int):
    counters = torch.arange(4096, device=DEVICE)
    assert abs(correlation(draw(9, counters)[0], draw(9 ^ (1 << bit), counters)[0])) < 5 / 4096**0.5


def test_moments_of_a_standard_normal():
    """Each within five of its standard deviations; the reference, which the kernel agrees with, is faster."""
    count = 1 << 20
    x = reference.standard_normal(seed_of(123), torch.arange(count)).double()
    deviations = {1: 1, 2: 2, 3: 15, 4: 96, 6: 10170}  # variances of the powers x^k of a standard normal
    expected = {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}
    for power, variance in deviations.items():
        assert abs(x.pow(power).mean() - expected[power]) < 5 * (variance / count) ** 0.5, power
    # Kolmogorov and Smirnov: the largest distance of the distribution functions, 2.2 / sqrt(n) at a chance of 1e-4.
    below = torch.special.ndtr(x.sort().values)
    steps = torch.arange(count, dtype=torch.float64) / count
    assert (below - steps).abs().max() < 2.2 / count**0.5


def test_neighboring_pixels_rows_and_samples_are_independent():
    noise = normal_noise(seed_of(77), torch.empty(8, 3, 64, 64, device=DEVICE))
    assert noise.shape == (8, 1, 64, 64)
    assert noise.dtype == torch.float32
    n = noise.numel()
    for distance in (1, 2, 3, 4, 32, 64, 1024, 4096):
        a, b = noise.flatten()[:-distance], noise.flatten()[distance:]
        assert abs(correlation(a, b)) < 5 / n**0.5, distance
        assert abs(correlation(a.square(), b.square())) < 5 / n**0.5, distance


def test_one_counter_for_each_sample_and_pixel():
    """n * HW + pixel: shape, layout and the number of channels play no part."""
    seed = seed_of(31)
    whole = normal_noise(seed, torch.empty(4, 1, 30, 35, device=DEVICE))
    assert torch.equal(whole, normal_noise(seed, torch.empty(4, 7, 30, 35, device=DEVICE)))
    assert torch.equal(whole, normal_noise(seed, lay_out(torch.empty(4, 7, 30, 35, device=DEVICE), "channels_last")))
    assert torch.equal(whole[:2], normal_noise(seed, torch.empty(2, 3, 30, 35, device=DEVICE)))
    assert torch.equal(whole.flatten(), normal_noise(seed, torch.empty(4200, 3, device=DEVICE)).flatten())
    expected = reference.normal_noise(seed, torch.empty(4, 1, 30, 35, device=DEVICE))
    torch.testing.assert_close(whole, expected, rtol=0, atol=ROUNDING)
    assert normal_noise(seed, torch.empty(0, 3, 4, device=DEVICE)).shape == (0, 1, 4)


def test_a_seed_follows_the_generator_of_torch():
    x = torch.empty(2, 3, device=DEVICE)
    torch.manual_seed(3)
    seeds = [draw_seed(x) for _ in range(100)]
    assert len({s.item() for s in seeds}) == 100
    assert max(s.item() for s in seeds) > 2**60
    torch.manual_seed(3)
    assert torch.equal(draw_seed(x), seeds[0])
    assert seeds[0].dtype == torch.int64
    assert seeds[0].device == x.device

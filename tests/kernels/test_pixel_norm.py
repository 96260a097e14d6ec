"""What is particular to pixel_norm; the rest of its tests are in test_every_op.py."""

import importlib

import pytest
import torch
from torch import nn

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import pixel_norm, reference, use_backend
from tests.kernels.harness import DEVICE, check_against_float64, lay_out, random, saved_bytes

# The package exports the function under the name of its module.
pixel_norm_module = importlib.import_module("fastgan_kernels.ops.pixel_norm")

both_backends = pytest.mark.parametrize("backend", ["triton", "reference"])


@both_backends
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_is_torchs_rms_norm_over_the_channels(layout: str, backend: str):
    x = lay_out(random((3, 6, 5, 4), 0), layout)
    expected = nn.functional.rms_norm(x.movedim(1, -1), (6,), eps=0.01).movedim(-1, 1)
    with use_backend(backend):
        torch.testing.assert_close(pixel_norm(x, eps=0.01), expected)


@both_backends
def test_every_pixel_has_a_mean_square_of_one(backend: str):
    with use_backend(backend):
        y = pixel_norm(random((4, 512), 0, torch.float32) * 1e-2)
    torch.testing.assert_close(y.square().mean(1), torch.ones(4, device=DEVICE), rtol=1e-3, atol=0)


@both_backends
@pytest.mark.parametrize("channels", [5, 9000])
def test_a_pixel_of_zeros_stays_zero_and_its_gradient_finite(channels: int, backend: str):
    x = torch.zeros(2, channels, device=DEVICE, requires_grad=True)
    dy = random(x.shape, 1, x.dtype).requires_grad_()
    with use_backend(backend):
        y = pixel_norm(x)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        ddx, ddy = torch.autograd.grad(dx, (x, dy), random(x.shape, 2, x.dtype))
    assert not y.any()
    torch.testing.assert_close(dx, dy * 1e4)
    assert not ddx.any()
    torch.testing.assert_close(ddy, random(x.shape, 2, x.dtype) * 1e4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_squares_in_float32(dtype: torch.dtype):
    """300 squared is beyond float16, and a sum of 4,096 ones would stop at 256 in bfloat16."""
    x = torch.full((1, 4096, 1, 3), 300.0, dtype=dtype, device=DEVICE)
    assert torch.equal(pixel_norm(x), torch.ones_like(x))


@pytest.mark.parametrize("shape", [(2, 1100, 3, 5), (1, 8200, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_channels_than_registers_hold(shape: tuple[int, ...], layout: str):
    x = lay_out(random(shape, 0), layout).float()
    check_against_float64(pixel_norm, reference.pixel_norm, [x], reduction=shape[1])


def test_the_first_gradient_is_symmetric():
    """<D(g), v> = <g, D(v)>: why its own derivative in g is the same kernel."""
    x, g, v = (random((2, 7, 3, 2), seed) for seed in range(3))
    of_g, of_v = (pixel_norm_module._launch_backward(t, x, 0.1) for t in (g, v))
    torch.testing.assert_close((of_g * v).sum(), (g * of_v).sum())


def test_saves_x_and_for_the_second_order_the_incoming_gradient():
    x = random((2, 8, 4, 4), 0, torch.bfloat16).requires_grad_()
    assert saved_bytes(lambda: pixel_norm(x)) == x.nbytes
    dy = random(x.shape, 1, x.dtype)
    assert saved_bytes(lambda: torch.autograd.grad(pixel_norm(x), x, dy, create_graph=True)) == 3 * x.nbytes


@pytest.mark.parametrize("shape", [(2, 8, 3), (1, 8200, 2)])
@pytest.mark.parametrize("needs", [[True, False], [False, True]])
def test_a_second_gradient_that_is_not_needed_is_none(shape: tuple[int, ...], needs: list[bool]):
    v, g, x = (random(shape, seed) for seed in range(3))
    full = pixel_norm_module._launch_double_backward(v, g, x, 0.1, [True, True])
    found = pixel_norm_module._launch_double_backward(v, g, x, 0.1, needs)
    assert [t is not None for t in found] == needs
    assert torch.equal(found[needs.index(True)], full[needs.index(True)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
def test_the_second_order_is_one_launch():
    x, dy, v = (random((2, 8, 3), seed).requires_grad_() for seed in range(3))
    (dx,) = torch.autograd.grad(pixel_norm(x), x, dy, create_graph=True)
    with count_traffic() as traffic:
        torch.autograd.grad(dx, (x, dy), v)
    assert [launch.kernel for launch in traffic.launches] == ["_kernel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\], expected \[N, C, \*spatial\]"),
        ({"x": torch.zeros(2, 3, dtype=torch.int32)}, "x is torch.int32, expected float16"),
        ({"eps": -1e-8}, "eps is -1e-08, expected a finite number of at least 0"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"eps": float("inf")}, "eps is inf"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=f"pixel_norm: {message}"):
        pixel_norm(**{"x": torch.zeros(2, 4, 4, 4), **arguments})

"""What is particular to minibatch_stddev; the rest of its tests are in test_every_op.py."""

import importlib

import pytest
import torch

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import minibatch_stddev, reference, use_backend
from tests.kernels.harness import DEVICE, check_against_float64, lay_out, random, saved_bytes

# The package exports the function under the name of its module.
minibatch_stddev_module = importlib.import_module("fastgan_kernels.ops.minibatch_stddev")

both_backends = pytest.mark.parametrize("backend", ["triton", "reference"])


@both_backends
@pytest.mark.parametrize(
    ("samples", "group_size", "members"), [(8, 4, 4), (6, 4, 3), (10, 4, 2), (7, 4, 1), (3, 100, 3), (5, 1, 1)]
)
def test_who_is_in_a_group_and_what_it_gets(samples: int, group_size: int, members: int, backend: str):
    """From the definition: the members are i, i + N/G, ...; appended channel f is about the f-th C/F channels."""
    x = random((samples, 6, 3, 2), 0)
    with use_backend(backend):
        y = minibatch_stddev(x, group_size=group_size, num_channels=3)
    assert torch.equal(y[:, :6], x)
    groups = samples // members
    for n in range(samples):
        group = torch.stack([x[i] for i in range(n % groups, samples, groups)])
        assert len(group) == members
        sigma = (group.var(0, unbiased=False) + 1e-8).sqrt()
        for f in range(3):
            expected = sigma[2 * f : 2 * f + 2].mean().expand(3, 2)
            torch.testing.assert_close(y[n, 6 + f], expected, rtol=1e-12, atol=0)


@both_backends
def test_groups_of_one_append_a_constant(backend: str):
    """As the docstring says: a prime number of samples above group_size."""
    with use_backend(backend):
        y = minibatch_stddev(random((7, 2, 3), 0), group_size=4)
    torch.testing.assert_close(y[:, 2], torch.full_like(y[:, 2], 1e-4))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("samples", "group_size"), [(8, 4), (290, 290)])
def test_variance_of_values_far_from_zero(samples: int, group_size: int, layout: str):
    """With E[x^2] - E[x]^2 in float32, 1e6 - 1e6 would leave nothing of a variance of 1."""
    x = lay_out(random((samples, 3, 3, 2), 0, torch.float32) + 1e3, layout)

    def op(x: torch.Tensor) -> torch.Tensor:
        return minibatch_stddev(x, group_size=group_size)

    def expected(x: torch.Tensor) -> torch.Tensor:
        return reference.minibatch_stddev(x, group_size=group_size)

    check_against_float64(op, expected, [x], reduction=x.numel())
    # Rounding of the inputs (6e-5 near 1e3) averages out; cancellation would not.
    torch.testing.assert_close(op(x)[:, 3:].double(), expected(x.double())[:, 3:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_more_members_than_a_program_holds(dtype: torch.dtype, layout: str):
    x = lay_out(random((600, 6, 5), 0), layout).bfloat16().to(dtype)
    settings = {"group_size": 300, "num_channels": 2}
    regions = minibatch_stddev_module._regions_of(x.shape, x.is_contiguous(), x.dtype, *settings.values())
    assert regions.x.constants["BLOCK_MEMBERS"] < regions.x.constants["MEMBERS"] == 300
    check_against_float64(
        lambda x: minibatch_stddev(x, **settings),
        lambda x: reference.minibatch_stddev(x, **settings),
        [x],
        reduction=x.numel(),
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")
def test_more_members_than_a_program_holds_are_read_twice_and_thrice():
    """For the mean and the copy, the variance, and for gradients; the second and third time from L2."""
    x = random((300, 60, 4, 4), 0, torch.float32).requires_grad_()
    with count_traffic() as traffic:
        y = minibatch_stddev(x, group_size=300)
    assert 1.4 <= traffic.over_minimum(x, inputs=[x], outputs=[y]).ratio <= 3 / 2
    dy = torch.ones_like(y)
    with count_traffic() as traffic:
        (dx,) = torch.autograd.grad(y, x, dy)
    assert 1.6 <= traffic.over_minimum(x, inputs=[dy, x], outputs=[dx]).ratio <= 5 / 3


@both_backends
@pytest.mark.parametrize("group_size", [1, 2, 4, 300])
def test_a_group_of_equal_samples(group_size: int, backend: str):
    """The standard deviation is sqrt(1e-8), not 0, and so the gradients are finite."""
    x = torch.full((max(group_size, 4), 16, 2, 2), 3.0, device=DEVICE, requires_grad=True)
    with use_backend(backend):
        y = minibatch_stddev(x, group_size=group_size)
        torch.testing.assert_close(y[:, 16:], torch.full_like(y[:, 16:], 1e-4))
        dy = torch.ones_like(y, requires_grad=True)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        assert torch.equal(dx, torch.ones_like(x))
        v = random(x.shape, 1, x.dtype)
        ddx, ddy = torch.autograd.grad(dx, (x, dy), v)
    assert torch.equal(ddy[:, :16], v)
    assert torch.equal(ddy[:, 16:], torch.zeros_like(ddy[:, 16:]))
    deviation = v - v.view(group_size, -1, *v.shape[1:]).mean(0).repeat(group_size, 1, 1, 1)
    # a / (G J sigma) with a = G * pixels, J = C * pixels.
    torch.testing.assert_close(ddx, deviation * (1 / 16 / 1e-4), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("samples", [4, 300])
def test_saves_x_and_for_the_second_order_a_number_a_group(samples: int):
    x = random((samples, 16, 2, 2), 0, torch.bfloat16).requires_grad_()
    assert saved_bytes(lambda: minibatch_stddev(x)) == x.nbytes
    dy = torch.ones(samples, 17, 2, 2, dtype=x.dtype, device=x.device, requires_grad=True)

    def first_gradient() -> None:
        torch.autograd.grad(minibatch_stddev(x), x, dy, create_graph=True)

    assert saved_bytes(first_gradient) == 2 * x.nbytes + samples // 4 * 4


def test_a_third_order_by_way_of_the_incoming_gradient_is_refused():
    x, dy = random((4, 2, 3), 0).requires_grad_(), random((4, 3, 3), 1).requires_grad_()
    (dx,) = torch.autograd.grad(minibatch_stddev(x), x, dy, create_graph=True)
    (ddx,) = torch.autograd.grad(dx, x, random(x.shape, 2), create_graph=True)
    with pytest.raises(RuntimeError, match="minibatch_stddev has gradients up to the second order"):
        torch.autograd.grad(ddx.sum(), dy, allow_unused=True)


def test_half_precision_sums_in_float32():
    """The gradient of the statistic is a sum of 16,384 ones: it would stop at 2,048 in float16."""
    x = torch.tensor([1.0, -1.0], dtype=torch.float16, device=DEVICE).view(2, 1, 1).repeat(1, 1, 8192).requires_grad_()
    dy = torch.ones(2, 2, 8192, dtype=x.dtype, device=x.device)
    (dx,) = torch.autograd.grad(minibatch_stddev(x), x, dy)
    # sigma is 1; 1 + 16384 / (2 * 8192) * xh.
    torch.testing.assert_close(dx, 1 + x.detach())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\], expected \[N, C, \*spatial\]"),
        ({"x": torch.zeros(2, 3, dtype=torch.int32)}, "x is torch.int32, expected float16"),
        ({"group_size": 0}, "group_size is 0, expected at least 1"),
        ({"num_channels": 0}, "num_channels is 0, expected a divisor of the 4 channels of x"),
        ({"num_channels": 3}, "num_channels is 3, expected a divisor of the 4 channels of x"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=f"minibatch_stddev: {message}"):
        minibatch_stddev(**{"x": torch.zeros(2, 4, 4, 4), **arguments})

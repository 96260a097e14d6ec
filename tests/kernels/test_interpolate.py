"""What is particular to interpolate; the rest of its tests are in test_every_op.py."""

import itertools

import pytest
import torch

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import interpolate, reference, use_backend
from tests.kernels.harness import DEVICE, check_against_float64, lay_out, random, saved_bytes


def some_inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return random((3, 2, 4, 5), 0, dtype), random((3, 2, 4, 5), 1, dtype), random((3, 1, 1, 1), 2, dtype).sigmoid()


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_shares_are_drawn_for_each_sample_under_the_seed_of_torch(dtype: torch.dtype, backend: str):
    real, fake = torch.ones(1000, 2, 3, dtype=dtype, device=DEVICE), torch.zeros(1000, 2, 3, device=DEVICE)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    torch.manual_seed(5)
    expected = torch.rand(1000, 1, 1, dtype=wide, device=DEVICE)
    torch.manual_seed(5)
    with use_backend(backend):
        y, another = interpolate(real, fake), interpolate(real, fake)
    # Truncated, not rounded, where the interpreter stores bfloat16.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.to(wide), expected.expand(y.shape), rtol=eps, atol=0)
    assert (y == y[:, :1, :1]).all()
    assert not torch.equal(y, another)
    assert 0 <= y.min() < 0.01
    assert 0.99 < y.max() <= 1


@pytest.mark.parametrize(("real_layout", "fake_layout"),
                         list(itertools.product(("contiguous", "channels_last", "sliced"), repeat=2)))  # fmt: skip
def test_layouts_that_differ(real_layout: str, fake_layout: str):
    real, fake, alpha = some_inputs()
    inputs = [lay_out(real, real_layout), lay_out(fake, fake_layout), alpha]
    check_against_float64(interpolate, reference.interpolate, inputs, reduction=40, gradient_layout="channels_last")
    y = interpolate(*inputs)
    assert y.is_contiguous(memory_format=torch.channels_last) == (real_layout == "channels_last")


def test_shares_with_any_stride_are_read_in_place():
    real, fake, alpha = some_inputs()
    one = alpha[:1].expand(3, 1, 1, 1)
    torch.testing.assert_close(interpolate(real, fake, one), one * real + (1 - one) * fake)
    every_other = alpha.repeat_interleave(2, 0)[::2]
    assert every_other.stride(0) == 2
    torch.testing.assert_close(interpolate(real, fake, every_other), alpha * real + (1 - alpha) * fake)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_are_the_images_themselves(share: float):
    real, fake, _ = some_inputs(torch.float32)
    y = interpolate(real, fake, torch.full((3, 1, 1, 1), share, device=DEVICE))
    assert torch.equal(y, real if share else fake)


def test_saves_the_images_only_for_a_gradient_of_the_shares():
    real, fake, alpha = some_inputs(torch.float32)
    real.requires_grad_()
    assert saved_bytes(lambda: interpolate(real, fake, alpha)) == alpha.nbytes
    assert saved_bytes(lambda: interpolate(real.detach(), fake, alpha)) == 0
    alpha.requires_grad_()
    assert saved_bytes(lambda: interpolate(real, fake, alpha)) == real.nbytes + fake.nbytes + alpha.nbytes


@pytest.mark.parametrize("needs", [(True, False, False), (False, False, True), (True, True, False)], ids=str)
def test_gradients_of_a_subset_in_the_compiled_route(needs: tuple[bool, ...]):
    """What a gradient in alpha needs is saved for it alone."""
    results = []
    for f in (torch.compile(interpolate, backend="aot_eager", fullgraph=True), reference.interpolate):
        inputs = [t.requires_grad_(need) for t, need in zip(some_inputs(), needs, strict=True)]
        wanted = [t for t in inputs if t.requires_grad]
        results.append(torch.autograd.grad(f(*inputs).square().sum(), wanted))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
def test_one_launch_each_way():
    real, fake, alpha = (t.requires_grad_(i < 2) for i, t in enumerate(some_inputs()))
    with count_traffic() as forward:
        y = interpolate(real, fake, alpha)
    dy = torch.ones_like(y)
    with count_traffic() as backward:
        torch.autograd.grad(y, (real, fake), dy)
    assert len(forward.launches) == len(backward.launches) == 1


def penalized(f, needs: tuple[bool, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """What cotangents of the first gradients leave for the inputs and dy, where the inputs have what ``needs`` tells.

    A second and a third order.
    """
    inputs = [t.requires_grad_(need) for t, need in zip(some_inputs(dtype), needs, strict=True)]
    dy = random(inputs[0].shape, 3, dtype).requires_grad_()
    results, wanted = [f(*inputs)], [t for t in (*inputs, dy) if t.requires_grad]
    gradients = torch.autograd.grad(results, wanted[:-1], dy, create_graph=True)
    for _ in range(2):
        gradients = [g for g in gradients if g is not None and g.requires_grad]
        cotangents = [random(g.shape, 4 + i, g.dtype).requires_grad_() for i, g in enumerate(gradients)]
        wanted += cotangents
        gradients = torch.autograd.grad(gradients, wanted, cotangents, create_graph=True, allow_unused=True)
        results += [torch.zeros_like(t) if g is None else g for g, t in zip(gradients, wanted, strict=True)]
    return results


@pytest.mark.parametrize("needs", [n for n in itertools.product([False, True], repeat=3) if any(n)], ids=str)
def test_higher_orders_of_every_subset(needs: tuple[bool, ...]):
    for found, expected in zip(penalized(interpolate, needs), penalized(reference.interpolate, needs), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
@pytest.mark.parametrize("share_has_gradient", [False, True])
def test_second_order_in_three_kernels(share_has_gradient: bool):
    """One for dy, one for the images where the share's gradient has a cotangent, one for the share; and sums."""
    real, fake, alpha = (t.requires_grad_(i < 2 or share_has_gradient) for i, t in enumerate(some_inputs()))
    dy = torch.ones_like(real).requires_grad_()
    inputs = [t for t in (real, fake, alpha) if t.requires_grad]
    first = torch.autograd.grad(interpolate(real, fake, alpha), inputs, dy, create_graph=True)
    hs = [torch.ones_like(t) for t in first]
    with count_traffic() as traffic:
        torch.autograd.grad(first, [*inputs, dy], hs, allow_unused=True)
    names = [launch.kernel for launch in traffic.launches]
    of_share = ["_backward_kernel", "_backward_kernel", "_sum_partials_kernel"]
    assert names == ["_forward_kernel", *(of_share if share_has_gradient else [])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"real": torch.zeros(3)}, r"real has shape \[3\], expected \[N, ...\] with two axes or more"),
        ({"real": torch.zeros(2, 3, 4, dtype=torch.uint8)}, "real is torch.uint8, expected float16"),
        ({"fake": torch.zeros(2, 3)}, r"fake has shape \[2, 3\], expected \[2, 3, 4\] for real of shape \[2, 3, 4\]"),
        ({"fake": torch.zeros(2, 3, 4, dtype=torch.int64)}, "fake is torch.int64"),
        ({"fake": torch.zeros(2, 3, 4, device="meta")}, "fake is on meta and real on cpu, expected one device"),
        ({"alpha": torch.zeros(2)}, r"alpha has shape \[2\], expected \[2, 1, 1\] for real of shape \[2, 3, 4\]"),
        ({"alpha": torch.zeros(1, 1, 1)}, r"alpha has shape \[1, 1, 1\], expected \[2, 1, 1\]"),
        ({"alpha": torch.zeros(2, 1, 1, dtype=torch.int64)}, "alpha is torch.int64"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    default = {"real": torch.zeros(2, 3, 4), "fake": torch.zeros(2, 3, 4), "alpha": torch.zeros(2, 1, 1)}
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=f"interpolate: {message}"):
        interpolate(**{**default, **arguments})

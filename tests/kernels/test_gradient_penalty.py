"""What is particular to gradient_norms and gradient_penalty; the rest of their tests are in test_every_op.py."""

import pytest
import torch
from torch import nn

from benchmarks.ops import OPS
from benchmarks.static.traffic import count_traffic
from fastgan_kernels import gradient_norms, gradient_penalty, interpolate, reference, use_backend
from fastgan_kernels.layout import sample_rows
from tests.kernels.harness import DEVICE, check_against_float64, prepare, random

both_backends = pytest.mark.parametrize("backend", ["triton", "reference"])


@both_backends
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_a_zero_gradient_has_a_penalty_with_gradient_zero_in_both_orders(target: float, one_sided: bool, backend: str):
    x = random((3, 2, 4), 0)
    x[1] = 0.0
    x.requires_grad_()
    v = random(x.shape, 1)
    with use_backend(backend):
        penalty = gradient_penalty(x, target=target, one_sided=one_sided)
        (first,) = torch.autograd.grad(penalty, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x, v)
    assert torch.equal(first[1], torch.zeros_like(first[1]))
    # The squared norm alone is smooth there.
    expected = 2 / 3 * v[1] if target == 0.0 else torch.zeros_like(v[1])
    torch.testing.assert_close(second[1], expected, rtol=1e-15, atol=0)
    assert first.isfinite().all()
    assert second.isfinite().all()


@both_backends
def test_a_zero_gradient_has_a_norm_with_gradient_zero_in_both_orders(backend: str):
    x = torch.zeros(2, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    d = torch.ones(2, dtype=torch.float64, device=DEVICE, requires_grad=True)
    with use_backend(backend):
        norms = gradient_norms(x)
        (first,) = torch.autograd.grad(norms, x, d, create_graph=True)
        second = torch.autograd.grad(first.sum(), (x, d))
    for t in (norms, first, *second):
        assert torch.equal(t, torch.zeros_like(t))


@both_backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_of_squares_that_pass_half_precision(dtype: torch.dtype, backend: str):
    """A squared element (90,000) and the norm (133,023) are both beyond float16; bfloat16 would end at 256 terms."""
    x = torch.full((2, 3, 256, 256), 300.0, dtype=dtype, device=DEVICE, requires_grad=True)
    expected = 300.0 * (3 * 256 * 256) ** 0.5
    with use_backend(backend), torch.autocast(DEVICE, dtype=dtype):
        norms = gradient_norms(x)
        penalty = gradient_penalty(x)
        (gradient,) = torch.autograd.grad(penalty, x)
    assert norms.dtype == penalty.dtype == torch.float32
    torch.testing.assert_close(norms, torch.full_like(norms, expected), rtol=1e-6, atol=0)
    torch.testing.assert_close(penalty.item(), (expected - 1) ** 2, rtol=1e-6, atol=0)
    # 2/N (s - 1) x / s, which half precision holds.
    assert gradient.dtype == dtype
    torch.testing.assert_close(
        gradient, torch.full_like(gradient, 300 * (1 - 1 / expected)), rtol=torch.finfo(dtype).eps, atol=0
    )


def test_what_overflows_float32_overflows_in_torch_too():
    x = torch.tensor([[1e19, 1.5e19], [2e19, 1.0], [1e-18, 0.0]], device=DEVICE).requires_grad_()
    expected = torch.linalg.vector_norm(x, dim=1)
    assert expected.isinf().tolist() == [False, True, False]
    norms = gradient_norms(x)
    torch.testing.assert_close(norms, expected)
    for found, wanted in zip(*(torch.autograd.grad(n.sum(), x) for n in (norms, expected)), strict=True):
        torch.testing.assert_close(found, wanted)


def test_equals_torch_vector_norm():
    x = random((5, 2, 3, 7), 0)
    expected = torch.linalg.vector_norm(x.flatten(1), dim=1)
    for norms in (gradient_norms(x), reference.gradient_norms(x)):
        torch.testing.assert_close(norms, expected)


@pytest.mark.parametrize(("target", "one_sided"), [(1.0, False), (1.0, True), (0.0, False)])
def test_the_penalty_is_what_it_says(target: float, one_sided: bool):
    x = prepare(OPS["gradient_norms"], (4, 3, 5)).inputs[0]
    excess = x.square().sum((1, 2)).sqrt() - target
    excess = excess.clamp(min=0) if one_sided else excess
    for f in (gradient_penalty, reference.gradient_penalty):
        torch.testing.assert_close(f(x, target=target, one_sided=one_sided), excess.square().mean())


@pytest.mark.parametrize(("op", "oracle"), [(gradient_norms, reference.gradient_norms),
                                            (gradient_penalty, reference.gradient_penalty)])  # fmt: skip
@pytest.mark.parametrize("shape", [(2300, 5), (3, 140, 151)], ids=str)
def test_more_rows_than_one_block_of_the_second_kernel_and_more_spans(op, oracle, shape: tuple[int, ...]):
    inputs = prepare(OPS["gradient_norms"], shape).inputs
    check_against_float64(op, oracle, inputs, reduction=shape[0] * shape[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
def test_launches():
    def launches(f) -> int:
        with count_traffic() as traffic:
            f()
        return len(traffic.launches)

    rows, spans = random((4, 3, 8, 8), 0).requires_grad_(), random((2, 3, 80, 80), 1).requires_grad_()
    assert launches(lambda: gradient_norms(rows)) == 1
    assert launches(lambda: gradient_norms(spans)) == 2
    for x in (rows, spans):
        assert launches(lambda: gradient_penalty(x)) == 2  # noqa: B023
        one = torch.ones((), dtype=x.dtype, device=x.device)
        for y in (gradient_norms(x), gradient_penalty(x)):
            assert launches(lambda: torch.autograd.grad(y, x, one.expand(y.shape))) == 1  # noqa: B023


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradients": torch.zeros(3)}, r"gradients has shape \[3\], expected \[N, ...\] with two axes or more"),
        ({"gradients": torch.zeros(2, 3, dtype=torch.int32)}, "gradients is torch.int32, expected float16"),
        ({"target": -1.0}, "target is -1.0, expected a finite number of at least 0"),
        ({"target": float("inf")}, "target is inf"),
        ({"target": float("nan")}, "target is nan"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    with use_backend(backend):
        with pytest.raises((ValueError, TypeError), match=f"gradient_penalty: {message}"):
            gradient_penalty(**{"gradients": torch.zeros(2, 3), **arguments})
        if "target" not in arguments:
            with pytest.raises((ValueError, TypeError), match=f"gradient_norms: {message}"):
                gradient_norms(**arguments)


def test_samples_whose_indices_pass_32_bits_are_refused():
    assert sample_rows(torch.empty(4, 2**15, 2**15, device="meta")) == (4, 2**30)
    with pytest.raises(ValueError, match="has 1073774592 elements per sample, expected at most 1073741824"):
        sample_rows(torch.empty(4, 2**15, 2**15 + 1, device="meta"))


class Critic(nn.Module):
    """Two convolutions and a linear layer; smooth, so that every term of the second order counts."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weights = nn.ParameterList(
            torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.4
            for shape in ((4, 2, 3, 3), (5, 4, 3, 3), (1, 5 * 16))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *convolutions, linear = self.weights  # not a slice of the list, which Dynamo of torch 2.11 does not trace
        for weight in convolutions:
            x = nn.functional.softplus(nn.functional.conv2d(x, weight, padding=1))
        return nn.functional.linear(x.flatten(1), linear).squeeze(1)


def step(critic: Critic, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor, penalize, mix):
    """Parameter gradients of the critic's loss with a penalty (Gulrajani et al. 2017, algorithm 1)."""
    points = mix(real, fake, alpha)
    (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalize(gradients)
    return torch.autograd.grad(loss, tuple(critic.parameters()))


def plain_mix(real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return alpha * real + (1 - alpha) * fake


def plain_norms(g: torch.Tensor) -> torch.Tensor:
    return g.square().sum((1, 2, 3)).sqrt()


PENALTIES = {
    "WGAN-GP": (gradient_penalty, lambda g: (plain_norms(g) - 1).square().mean()),
    "one-sided": (lambda g: gradient_penalty(g, target=2.2, one_sided=True),
                  lambda g: torch.relu(plain_norms(g) - 2.2).square().mean()),
    "zero-centered": (lambda g: gradient_penalty(g, target=0.0), lambda g: g.square().sum() / len(g)),
    "of norms": (lambda g: (gradient_norms(g) - 1).square().mean(),
                 lambda g: (plain_norms(g) - 1).square().mean()),
}  # fmt: skip


def images_and_shares() -> tuple[torch.Tensor, ...]:
    real, fake = (random((3, 2, 4, 4), seed).requires_grad_() for seed in (0, 1))
    return real, fake, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, device=DEVICE).reshape(3, 1, 1, 1)


def assert_gradients_equal(found, expected) -> None:
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


@both_backends
@pytest.mark.parametrize("name", PENALTIES)
def test_the_step_of_a_critic(name: str, backend: str):
    critic = Critic().to(DEVICE)
    ours, plain = PENALTIES[name]
    with use_backend(backend):
        found = step(critic, *images_and_shares(), ours, interpolate)
    assert_gradients_equal(found, step(critic, *images_and_shares(), plain, plain_mix))


def test_some_samples_are_free_in_the_one_sided_step():
    """Else that step would prove no more than the two-sided one."""
    critic = Critic().to(DEVICE)
    points = plain_mix(*images_and_shares())
    norms = gradient_norms(torch.autograd.grad(critic(points).sum(), points)[0])
    assert norms.min() < 2.2 < norms.max()

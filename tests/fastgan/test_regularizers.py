import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastgan import regularizers
from fastgan.regularizers import compile_step, dragan, get_regularizer, r1, r2, wgan_gp


def images(seed: int, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(64, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.convolution(x)).flatten(1))


class Linear(nn.Module):
    """D(x) = <w, x>: the gradient is w everywhere."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.w).flatten(1).sum(1)


def test_penalties_of_a_linear_critic_are_those_of_its_weight():
    w = images(0, 1)[0]
    critic, real, fake, norm = Linear(w), images(1), images(2), w.norm().item()
    assert wgan_gp(critic, real, fake).item() == pytest.approx(10 * (norm - 1) ** 2, rel=1e-12)
    assert wgan_gp(critic, real, fake, weight=3, target=2).item() == pytest.approx(3 * (norm - 2) ** 2, rel=1e-12)
    assert wgan_gp(critic, real, fake, one_sided=True).item() == pytest.approx(10 * (norm - 1) ** 2, rel=1e-12)
    assert wgan_gp(critic, real, fake, target=norm + 1, one_sided=True).item() == 0
    assert r1(critic, real).item() == pytest.approx(5 * norm**2, rel=1e-12)
    assert r2(critic, fake, gamma=1).item() == pytest.approx(norm**2 / 2, rel=1e-12)
    assert dragan(critic, real).item() == pytest.approx(10 * (norm - 1) ** 2, rel=1e-12)
    # d/dw of 5 |w|^2 is 10 w, and of 10 (|w| - 1)^2 is 20 (1 - 1/|w|) w.
    torch.testing.assert_close(torch.autograd.grad(r1(critic, real), critic.w)[0], 10 * w)
    (gradient,) = torch.autograd.grad(wgan_gp(critic, real, fake), critic.w)
    torch.testing.assert_close(gradient, 20 * (1 - 1 / norm) * w)


def written_out(critic: nn.Module, points: torch.Tensor, target: float) -> torch.Tensor:
    points = points.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (gradients.flatten(1).norm(dim=1) - target).square().mean()


def test_where_each_penalty_is_taken():
    critic, real, fake = Critic().double(), images(1), images(2)
    alpha = torch.rand(4, 1, 1, 1, dtype=torch.float64)
    between = alpha * real + (1 - alpha) * fake
    expected = {
        "wgan_gp": (wgan_gp(critic, real, fake, alpha=alpha), 10 * written_out(critic, between, 1)),
        "r1": (r1(critic, real), 5 * written_out(critic, real, 0)),
        "r2": (r2(critic, fake), 5 * written_out(critic, fake, 0)),
    }
    for found, by_hand in expected.values():
        gradients = (
            torch.autograd.grad(loss, tuple(critic.parameters()), allow_unused=True) for loss in (found, by_hand)
        )
        torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=0)
        for f, e in zip(*gradients, strict=True):
            torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-14)


def test_random_points_follow_the_seed_and_lie_where_they_should():
    seen = []

    def critic(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = 3 * images(1, 1000), images(2, 1000)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        wgan_gp(critic, real, fake)
        dragan(critic, real, noise=0.25)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[4])
    share = (seen[0] - fake) / (real - fake)
    torch.testing.assert_close(share, share[:, :1, :1, :1].expand_as(share), rtol=1e-6, atol=1e-6)
    # One uniform draw for each sample: mean 1/2 with standard error 1/sqrt(12 * 1000) = 0.009.
    assert abs(share[:, 0, 0, 0].mean().item() - 0.5) < 5 / math.sqrt(12 * 1000)
    distance = (seen[1] - real) / real.std()
    assert distance.min() >= 0
    assert 0.2 < distance.max() < 0.25
    # alpha and the noise are uniform and independent: the mean is noise / 4.
    assert abs(distance.mean().item() - 0.0625) < 5 * distance.std().item() / math.sqrt(1000)


def test_neither_images_nor_the_generator_get_a_gradient():
    critic = Critic().double()
    generator = torch.ones((), dtype=torch.float64, requires_grad=True)
    real = images(1).requires_grad_()
    (wgan_gp(critic, real, images(2) * generator) + r2(critic, images(2) * generator) + dragan(critic, real)).backward()
    assert generator.grad is None
    assert real.grad is None
    assert critic.head.weight.grad.any()


def test_a_zero_gradient_has_a_penalty_with_gradient_zero():
    critic = Linear(torch.zeros(2, 4, 4, dtype=torch.float64))
    for penalty in (wgan_gp(critic, images(0), images(1)), r1(critic, images(0))):
        (gradient,) = torch.autograd.grad(penalty, critic.w)
        assert not gradient.any()


@pytest.mark.parametrize("penalty", ["wgan_gp", "r1", "r2", "dragan"])
def test_batch_norm_in_a_penalized_critic_is_refused(penalty: str):
    def call(critic: nn.Module, **options: bool) -> torch.Tensor:
        real = images(1).float()
        batches = (real, images(2).float()) if penalty == "wgan_gp" else (real,)
        return getattr(regularizers, penalty)(critic, *batches, **options)

    critic = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(ValueError, match="has batch normalization \\(1\\), which makes the output of a sample depend"):
        call(critic)
    assert call(critic, allow_batch_norm=True).isfinite()
    # With fixed statistics it is an affine map of each sample.
    assert call(critic.eval()).isfinite()
    critic[1] = nn.BatchNorm2d(4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="batch normalization"):
        call(critic)
    critic[1] = nn.InstanceNorm2d(4)
    assert call(critic.train()).isfinite()


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))


FORMS = {
    "method": lambda critic: critic.forward,
    "partial": functools.partial,
    "lambda": lambda critic: lambda x: critic(x),
    "function of torch": lambda critic: (
        lambda x: torch.batch_norm(x, None, None, None, None, critic.training, 0.1, 1e-5, False)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_batch_norm_in_a_penalized_function_is_refused(form: str):
    critic, real = with_batch_norm(), images(1).float()
    with pytest.raises(ValueError, match="batch normalization \\(NativeBatchNormBackward0\\)"):
        r1(FORMS[form](critic), real)
    assert r1(FORMS[form](critic), real, allow_batch_norm=True).isfinite()
    if form != "function of torch":
        assert r1(FORMS[form](critic.eval()), real).isfinite()
    # Of a single sample it couples none.
    assert r1(FORMS[form](critic.train()), real[:1]).isfinite()


def test_batch_norm_of_another_library_is_refused():
    class SyncBatchNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

        @staticmethod
        def backward(ctx, g: torch.Tensor) -> torch.Tensor:
            return g - g.mean(0)

    with pytest.raises(ValueError, match="batch normalization \\(SyncBatchNormBackward\\)"):
        r1(lambda x: SyncBatchNorm.apply(x.square()), images(1))


def test_batch_norm_that_the_images_do_not_pass_is_not_refused():
    labels = nn.BatchNorm1d(3)(torch.randn(4, 3, requires_grad=True)).double()
    critic = Critic().double()
    torch.testing.assert_close(r1(lambda x: critic(x) + labels.sum(1, keepdim=True), images(1)), r1(critic, images(1)))


@pytest.mark.parametrize("form", ["lambda", "function of torch"])
def test_batch_norm_is_refused_where_it_is_compiled(form: str):
    critic, real = with_batch_norm(), images(1).float()
    function = FORMS[form](critic)

    def penalty(real: torch.Tensor, allow: bool) -> torch.Tensor:
        return r1(function, real, allow_batch_norm=allow).detach()

    compiled = compile_step(penalty, backend="aot_eager")
    with pytest.raises(ValueError, match=r"^the penalized critic has batch normalization \(batch_norm\)[^\n]*$"):
        compiled(real, False)
    torch.testing.assert_close(compiled(real, True), penalty(real, True))
    if form == "lambda":
        critic.eval()
        torch.testing.assert_close(compiled(real, False), penalty(real, False))


PENALTIES = {
    "wgan_gp": wgan_gp,
    "one_sided": functools.partial(wgan_gp, one_sided=True, target=0.1),
    "r1": lambda critic, real, fake: r1(critic, real),
    "r2": lambda critic, real, fake: r2(critic, fake),
    "dragan": lambda critic, real, fake: dragan(critic, real),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_penalty_is_the_same_number_where_gradients_are_off(penalty: str, mode: Callable[[], Any]):
    critic = Critic().double()

    def value(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return PENALTIES[penalty](critic, real, fake)

    expected = value(images(1), images(2))
    with mode():
        batches = images(1), images(2)
        found = value(*batches)
        assert not torch.is_grad_enabled()
    assert expected.requires_grad
    assert not found.requires_grad
    assert found.is_inference() == (mode is torch.inference_mode)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)
    # Images made there are as good as others.
    torch.testing.assert_close(value(*batches), expected, rtol=1e-12, atol=0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value(*batches), tuple(critic.parameters())[:3]))


def test_a_compiled_penalty_is_the_same_number_where_gradients_are_off():
    critic = Critic().double()
    compiled = compile_step(lambda real: r1(critic, real).detach(), backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(1)), r1(critic, images(1)))


@pytest.mark.parametrize("critic", [lambda x: x.detach(), torch.no_grad()(Critic().double())], ids=["detached", "off"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_critic_without_a_gradient_in_its_images_is_refused(penalty: str, critic: Callable):
    with pytest.raises(ValueError, match="the output of the penalized critic does not depend on the images"):
        PENALTIES[penalty](critic, images(1), images(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_norms_are_float32_in_half_precision_and_under_autocast(dtype: torch.dtype):
    # 32 gradients of 300: their squares sum to 2.9 million, and float16 ends at 65,504.
    critic = Linear(torch.full((2, 4, 4), 300.0, dtype=dtype))
    penalty = r1(critic, images(1).to(dtype), gamma=2)
    assert penalty.dtype == torch.float32
    assert penalty.item() == 32 * 300.0**2
    critic = Critic()
    with torch.autocast("cpu", dtype=dtype):
        penalty = wgan_gp(critic, images(1).float(), images(2).float(), alpha=torch.full((4, 1, 1, 1), 0.5))
    assert penalty.dtype == torch.float32
    exact = 10 * written_out(Critic(), (images(1).float() + images(2).float()) / 2, 1)
    # A few roundings to the reduced type along the way, relative to gradients of norm about 1.
    assert penalty.item() == pytest.approx(exact.item(), abs=10 * 8 * torch.finfo(dtype).eps)


def test_a_gradient_that_float16_cannot_hold_is_scaled():
    """The gradient is 2^-26; float16 ends at 2^-24. The scaler of the training step lifts it."""

    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.full((), 2.0**-13))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # The product of two small factors arises in the backward pass alone.
            return ((x.half() * self.factor.half()).flatten(1).sum(1) * self.factor.half()).float()

    real = torch.ones(2, 1, 1, 1)
    assert r1(Faint(), real).item() == 0
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    found = r1(Faint(), real, scaler=scaler)
    assert found.item() == pytest.approx(5 * 2.0**-52, rel=1e-3)


def test_more_inputs_are_bound_by_the_caller_and_outputs_have_any_shape():
    labels = torch.arange(4.0, dtype=torch.float64)

    def patches(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return x * labels.view(-1, 1, 1, 1)

    penalty = r1(lambda x: patches(x, labels), images(0), gamma=2)
    assert penalty.item() == pytest.approx(32 * (0 + 1 + 4 + 9) / 4)


def step(critic: nn.Module, penalty: str, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, ...]:
    loss = PENALTIES[penalty](critic, real, fake) + critic(fake).mean() - critic(real).mean()
    return loss.detach(), *torch.autograd.grad(loss, tuple(critic.parameters()))


@pytest.mark.parametrize(
    ("penalty", "backend"),
    [
        ("wgan_gp", "aot_eager"),
        ("r1", "aot_eager"),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [*((name, "aot_eager") for name in ("one_sided", "r2", "dragan")), ("wgan_gp", "inductor")]
        ),
    ],
)
def test_a_compiled_step_has_the_gradients_of_the_eager_one(penalty: str, backend: str):
    arguments = Critic().double(), penalty, images(1), images(2)
    torch.manual_seed(0)
    expected = step(*arguments)
    torch.manual_seed(0)
    with torch._inductor.config.patch(fallback_random=True):  # the random numbers of the eager step
        found = compile_step(step, backend=backend)(*arguments)
    assert not torch._dynamo.config.trace_autograd_ops
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_compiled_critic_or_step_that_would_lose_the_second_order_is_refused():
    critic, real, fake = Critic().double(), images(1), images(2)
    with pytest.raises(RuntimeError, match="compile the whole step, penalty included"):
        step(torch.compile(critic, backend="aot_eager"), "r1", real, fake)
    with pytest.raises(RuntimeError, match="compile the whole step, penalty included"):
        torch.compile(step, backend="aot_eager")(critic, "wgan_gp", real, fake)


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


def test_a_function_is_a_regularizer():
    real, fake = torch.randn(2, 3, 4)
    regularizer = get_regularizer(lambda critic, real, fake: (critic(real) - critic(fake)).square().mean())
    found = regularizer(lambda x: 2 * x, real, fake, 3.0, alpha=None, scaler=None)
    torch.testing.assert_close(found, 12 * (real - fake).square().mean())

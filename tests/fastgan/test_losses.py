import math

import pytest
import torch

from fastgan.losses import LOSSES, get_loss

NON_SATURATING = LOSSES["non-saturating"]


def logits(seed, n=64):
    return 4 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_non_saturating_is_the_papers_formula():
    real, fake = logits(0), logits(1)
    # Goodfellow et al. 2014, eq. 1 with the signs turned, in probabilities.
    discriminator = -torch.log(torch.sigmoid(real)).mean() - torch.log(1 - torch.sigmoid(fake)).mean()
    generator = -torch.log(torch.sigmoid(fake)).mean()
    # 1 - sigmoid(t) loses up to e^t in relative accuracy; |t| < 16 here.
    tolerance = math.exp(16) * torch.finfo(torch.float64).eps
    torch.testing.assert_close(NON_SATURATING.discriminator(real, fake), discriminator, rtol=tolerance, atol=0)
    torch.testing.assert_close(NON_SATURATING.generator(fake), generator, rtol=tolerance, atol=0)


def test_an_undecided_discriminator_costs_log_2_a_side():
    zero = torch.zeros(5, dtype=torch.float64)
    assert NON_SATURATING.discriminator(zero, zero).item() == pytest.approx(2 * math.log(2), rel=1e-15)
    assert NON_SATURATING.generator(zero).item() == pytest.approx(math.log(2), rel=1e-15)


def test_gradients_are_those_of_the_logistic_function():
    real, fake = logits(2).requires_grad_(), logits(3).requires_grad_()
    NON_SATURATING.discriminator(real, fake).backward()
    eps = torch.finfo(torch.float64).eps
    torch.testing.assert_close(real.grad, -torch.sigmoid(-real) / 64, rtol=8 * eps, atol=eps)
    torch.testing.assert_close(fake.grad, torch.sigmoid(fake) / 64, rtol=8 * eps, atol=eps)
    fake.grad = None
    NON_SATURATING.generator(fake).backward()
    torch.testing.assert_close(fake.grad, -torch.sigmoid(-fake) / 64, rtol=8 * eps, atol=eps)


@pytest.mark.parametrize("extreme", [1e2, 1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients_that_do_not_vanish(extreme):
    """Written with the logarithm of a sigmoid, float32 gives infinity and NaN from a logit of about 104 on."""
    wrong_real = torch.full((4,), -extreme, requires_grad=True)
    wrong_fake = torch.full((4,), extreme, requires_grad=True)
    loss = NON_SATURATING.discriminator(wrong_real, wrong_fake)
    loss.backward()
    assert loss.item() == pytest.approx(2 * extreme)
    assert wrong_real.grad.tolist() == [-0.25] * 4
    assert wrong_fake.grad.tolist() == [0.25] * 4
    rejected = torch.full((4,), -extreme, requires_grad=True)
    NON_SATURATING.generator(rejected).backward()
    assert rejected.grad.tolist() == [-0.25] * 4


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no loss is called 'non-saturated'.*did you mean 'non-saturating'"):
        get_loss("non-saturated")

import math

import pytest
import torch

from fastgan.losses import LOSSES, NonSaturating, get_loss

NON_SATURATING = get_loss("non-saturating")
WITH_LABELS = ("minimax", "non-saturating", "logistic", "least-squares")
EPS = torch.finfo(torch.float64).eps
# 1 - sigmoid(t) loses up to e^t in relative accuracy; |t| < 16 here.
FORMULA = {"rtol": math.exp(16) * EPS, "atol": EPS}


def logits(seed, n=64):
    return 4 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_probability(t):
    return torch.log(torch.sigmoid(t)).mean()


def log_rejection(t):
    return torch.log(1 - torch.sigmoid(t)).mean()


def zero_or_more(t):
    return torch.where(t > 0, t, torch.zeros_like(t))


# The papers' formulas, signs turned where a paper maximises: discriminator's and generator's, of real and fake logits.
PAPERS = {
    "minimax": (lambda r, f: -log_probability(r) - log_rejection(f), lambda r, f: log_rejection(f)),
    "non-saturating": (lambda r, f: -log_probability(r) - log_rejection(f), lambda r, f: -log_probability(f)),
    "logistic": (
        lambda r, f: torch.log(1 + torch.exp(-r)).mean() + torch.log(1 + torch.exp(f)).mean(),
        lambda r, f: torch.log(1 + torch.exp(-f)).mean(),
    ),
    "wasserstein": (lambda r, f: -(r.mean() - f.mean()), lambda r, f: -f.mean()),
    "hinge": (lambda r, f: zero_or_more(1 - r).mean() + zero_or_more(1 + f).mean(), lambda r, f: -f.mean()),
    "least-squares": (
        lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda r, f: 0.5 * ((f - 1) ** 2).mean(),
    ),
    "relativistic-pairing": (lambda r, f: -log_probability(r - f), lambda r, f: -log_probability(f - r)),
    "relativistic-average": (
        lambda r, f: -log_probability(r - f.mean()) - log_rejection(f - r.mean()),
        lambda r, f: -log_probability(f - r.mean()) - log_rejection(r - f.mean()),
    ),
}


def generator_loss(loss, fake, real):
    return loss.generator(fake, real) if loss.relativistic else loss.generator(fake)


def test_every_loss_has_its_formula_here():
    assert PAPERS.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", PAPERS)
def test_values_and_gradients_are_those_of_the_papers_formula(name):
    of_discriminator, of_generator = PAPERS[name]
    loss, inputs = get_loss(name), [(logits(0) / 2).requires_grad_(), (logits(1) / 2).requires_grad_()]
    pairs = [
        (loss.discriminator(*inputs), of_discriminator(*inputs)),
        (generator_loss(loss, inputs[1], inputs[0]), of_generator(*inputs)),
    ]
    for ours, papers in pairs:
        assert ours.shape == ()
        torch.testing.assert_close(ours, papers, **FORMULA)
        gradients = (torch.autograd.grad(value, inputs, allow_unused=True) for value in (ours, papers))
        for mine, theirs in zip(*gradients, strict=True):
            if theirs is None:
                assert mine is None
            else:
                torch.testing.assert_close(mine, theirs, **FORMULA)


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


@pytest.mark.parametrize("labels", [{}, {"real_label": 0.9, "fake_label": 0.1}])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_finite_with_finite_gradients_at_extreme_logits(name, labels):
    if labels and name not in WITH_LABELS:
        return
    loss = get_loss(name, **labels)
    # Squares leave float32 at 1e19.
    extreme = 1e18 if name == "least-squares" else 1e30
    for real_sign in (-1, 1):
        for fake_sign in (-1, 1):
            real = torch.tensor([real_sign * extreme, 0.0], requires_grad=True)
            fake = torch.tensor([fake_sign * extreme, 0.0], requires_grad=True)
            for value in (loss.discriminator(real, fake), generator_loss(loss, fake, real)):
                gradients = torch.autograd.grad(value, (real, fake), allow_unused=True)
                assert value.isfinite()
                assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("real_label", "fake_label"), [(0.9, 0.1), (0.9, 0.0), (1.0, 0.2)])
@pytest.mark.parametrize("name", WITH_LABELS)
def test_smoothing_is_the_papers_formula_and_never_the_generators(name, real_label, fake_label):
    real, fake = logits(4), logits(5)
    smoothed = get_loss(name, real_label=real_label, fake_label=fake_label)
    if name == "least-squares":
        expected = 0.5 * ((real - real_label) ** 2).mean() + 0.5 * ((fake - fake_label) ** 2).mean()
    else:
        expected = -(real_label * log_probability(real) + (1 - real_label) * log_rejection(real))
        expected -= fake_label * log_probability(fake) + (1 - fake_label) * log_rejection(fake)
    torch.testing.assert_close(smoothed.discriminator(real, fake), expected, **FORMULA)
    assert smoothed.discriminator(real, fake) != get_loss(name).discriminator(real, fake)
    assert torch.equal(smoothed.generator(fake), get_loss(name).generator(fake))


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - WITH_LABELS))
def test_smoothing_is_refused_where_there_are_no_labels(name):
    get_loss(name, real_label=1.0, fake_label=0.0)
    for labels in ({"real_label": 0.9}, {"fake_label": 0.1}):
        with pytest.raises(ValueError, match=f"loss '{name}' has no labels .*one of minimax") as caught:
            get_loss(name, **labels)
        assert "\n" not in str(caught.value)


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown loss 'non-saturated'; did you mean 'non-saturating'"):
        get_loss("non-saturated")


def test_logistic_is_a_name_of_the_non_saturating_loss():
    assert LOSSES["logistic"] is LOSSES["non-saturating"] is NonSaturating


class OfThree:
    relativistic = True

    def discriminator(self, real, fake):
        return (fake - real).mean()

    def generator(self, fake, real=None):
        return (real - fake).mean()


def test_functions_are_a_loss():
    real, fake = logits(1), logits(2)
    pair = get_loss((lambda real, fake: real.mean() - fake.mean(), lambda fake: fake.sum()))
    assert pair.discriminator(real, fake) == real.mean() - fake.mean()
    assert pair.generator(fake, real) == fake.sum()
    assert not pair.relativistic
    assert not pair.takes_logits
    assert pair.balance() is None
    both = get_loss((lambda real, fake: real.mean(), lambda fake, real: (fake - real).sum()))
    assert both.relativistic
    assert both.generator(fake, real) == (fake - real).sum()
    methods = get_loss(OfThree())
    assert methods.relativistic
    assert methods.generator(fake, real) == (real - fake).mean()


@pytest.mark.parametrize("loss", [torch.mean, (torch.mean,), (torch.mean, 3), object()])
def test_what_is_no_loss_is_refused(loss):
    with pytest.raises(ValueError, match=r"the loss is .*, expected a name, a pair of functions \(the discriminator's"):
        get_loss(loss)


def test_a_loss_of_functions_has_no_labels():
    with pytest.raises(ValueError, match="a loss of your own has no labels to smooth"):
        get_loss(OfThree(), real_label=0.9)

import pytest
import torch
from torch import nn
from twins import assert_twins, copy_weights, num_parameters, output_and_gradients, penalised_step, shake

from fastgan.models import build_networks
from fastgan.models.dcgan import RESOLUTIONS, DCGAN28Discriminator, DCGANDiscriminator
from fastgan.models.wgan_gp import build_wgan_gp
from fastgan.nn import BiasAct
from fastgan.regularizers import wgan_gp
from fastgan_kernels import use_backend


class LayerNorm(nn.Module):
    """Over channels and pixels, with a scale and shift per channel."""

    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x):
        flat = x.flatten(1)
        mean, variance = flat.mean(1), flat.var(1, correction=0)
        normal = (x - mean[:, None, None, None]) / (variance[:, None, None, None] + 1e-5).sqrt()
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def twin_28(base, norm):
    """DCGAN's trunk of SPEC.md section 2 without its batch norm."""
    layers, c_in = [], 1
    for i, c_out in enumerate([base // 4, base // 2, base, 2 * base]):
        layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
        if norm == "layer" and i > 0:
            layers.append(LayerNorm(c_out))
        c_in = c_out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(c_in * 4, 1), nn.Flatten(0))


def twin_32(base, norm):
    layers = [nn.Conv2d(1, base, 4, 2, 1), nn.LeakyReLU(0.2)]
    for c_in, c_out in [(base, 2 * base), (2 * base, 4 * base)]:
        if norm == "layer":
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False), LayerNorm(c_out)]
        else:
            layers.append(nn.Conv2d(c_in, c_out, 4, 2, 1))
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * base * 16, 1), nn.Flatten(0))


def critics(resolution, norm, base):
    torch.manual_seed(1)
    _, critic = build_wgan_gp(resolution=resolution, num_channels=1, base_channels=base, norm=norm)
    twin = {28: twin_28, 32: twin_32}[resolution](base, norm)
    critic.double(), twin.double()
    shake(critic)
    copy_weights(critic, twin)
    return critic, twin


def batches(resolution):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 1, resolution, resolution, generator=generator, dtype=torch.float64) * 2 - 1


CRITICS = pytest.mark.parametrize(
    ("resolution", "norm"), [(28, "none"), (28, "layer"), (32, "none"), (32, "layer")], ids=str
)


@pytest.mark.parametrize(
    ("norm", "expected"),
    # DCGAN's 98,113 without the scales and shifts of 32, 64 and 128 channels, which layer norm has too.
    [("none", 98_113 - 2 * (32 + 64 + 128)), ("layer", 98_113)],
)
def test_the_critic_has_the_parameters_of_dcgans_trunk(norm, expected):
    generator, critic = build_wgan_gp(resolution=28, num_channels=1, norm=norm)
    assert num_parameters(generator) == 856_065
    assert num_parameters(critic) == expected


def test_the_critic_has_no_norm_unless_asked():
    torch.manual_seed(0)
    by_name = build_networks("wgan-gp", resolution=28, num_channels=1).discriminator
    torch.manual_seed(0)
    plain = build_wgan_gp(resolution=28, num_channels=1, norm="none")[1]
    assert str(by_name) == str(plain)
    assert all(torch.equal(a, b) for a, b in zip(by_name.parameters(), plain.parameters(), strict=True))


@CRITICS
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_equal_those_of_plain_torch(resolution, norm, training):
    critic, twin = critics(resolution, norm, base=16)
    critic.train(training), twin.train(training)
    x, _ = batches(resolution)
    assert_twins(critic, twin, lambda network: output_and_gradients(network, x))


@CRITICS
def test_a_penalised_step_equals_that_of_plain_torch(resolution, norm):
    critic, twin = critics(resolution, norm, base=16)
    assert_twins(critic, twin, lambda network: penalised_step(network, *batches(resolution)))


@pytest.mark.parametrize("resolution", [28, 32])
def test_a_penalised_step_on_the_kernels(resolution):
    critic, twin = critics(resolution, "none", base=4)
    with use_backend("triton"):
        found = penalised_step(critic, *batches(resolution))
    expected = penalised_step(twin, *batches(resolution))
    assert_twins(critic, twin, lambda network: found if network is critic else expected)


@CRITICS
def test_the_penalty_reaches_every_weight(resolution, norm):
    """Else the comparisons above could be of the critic's scores alone."""
    critic, _ = critics(resolution, norm, base=16)
    weights = [p for p in critic.parameters() if p.dim() > 1]
    assert all(g.any() for g in torch.autograd.grad(wgan_gp(critic, *batches(resolution)), weights))


@CRITICS
def test_no_sample_sees_another(resolution, norm):
    critic, _ = critics(resolution, norm, base=4)
    for module in critic.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    x = batches(resolution)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x)[1], x)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_of_dcgan_has_networks(resolution):
    torch.manual_seed(0)
    generator, critic = build_networks("wgan-gp", resolution=resolution, num_channels=3, latent_dim=7, base_channels=4)
    images = generator(torch.randn(2, 7))
    assert images.shape == (2, 3, resolution, resolution)
    assert critic(images).shape == (2,)
    # Every activation of a critic without a norm follows a bias.
    assert not any(isinstance(m, nn.LeakyReLU | nn.BatchNorm2d | nn.Sigmoid) for m in critic.modules())
    assert sum(isinstance(m, BiasAct) for m in critic.modules()) == sum(
        isinstance(m, nn.Conv2d) for m in critic.modules()
    )


@pytest.mark.parametrize("resolution", [28, 64])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_critic_begins_with_gradients_of_the_order_of_one(resolution, norm):
    """The penalty asks for 1; with DCGAN's initial weights it would be 0.0002 and 0.02 without a norm."""
    torch.manual_seed(0)
    _, critic = build_wgan_gp(resolution=resolution, num_channels=1, base_channels=32, norm=norm)
    x = batches(resolution)[0].float().requires_grad_()
    (gradient,) = torch.autograd.grad(critic.eval()(x).sum(), x)
    assert 0.2 < gradient.flatten(1).norm(dim=1).mean() < 5


def test_batch_norm_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"depend on the whole batch.*use norm 'none' or 'layer'"):
        build_wgan_gp(resolution=28, num_channels=1, norm="batch")


@pytest.mark.parametrize(("critic", "resolution"), [(DCGAN28Discriminator(1), 28), (DCGANDiscriminator(32, 1), 32)])
def test_the_penalty_refuses_the_discriminator_of_dcgan_and_takes_the_critics(critic, resolution):
    real, fake = batches(resolution).float()
    with pytest.raises(ValueError, match=r"batch normalisation \(layers\..*whole batch"):
        wgan_gp(critic, real, fake)
    for norm in ("none", "layer"):
        _, without = build_wgan_gp(resolution=resolution, num_channels=1, base_channels=4, norm=norm)
        assert wgan_gp(without, real, fake).isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 20}, "wgan-gp has no networks for resolution 20, only for 16, 28, 32, 64, 128 and 256"),
        (
            {"resolution": 28, "base_channels": 6},
            "wgan-gp at resolution 28 needs base_channels that divide by 4, not 6",
        ),
        ({"resolution": 28, "norm": "instance"}, "wgan-gp has no critic with norm 'instance'"),
    ],
)
def test_what_does_not_exist_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_wgan_gp(num_channels=1, **settings)


def test_an_unknown_norm_is_refused_by_the_discriminators():
    for build in (DCGAN28Discriminator, lambda **norm: DCGANDiscriminator(32, 1, **norm)):
        with pytest.raises(ValueError, match="norm is 'none at all', expected 'batch', 'layer' or 'none'"):
            build(norm="none at all")

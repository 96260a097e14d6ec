import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import num_parameters, shake

from fastgan.models import build_networks
from fastgan.models.stylegan import Mapping, SynthesisBlock, mix_styles
from fastgan.nn import BiasAct, StyleEpilogue

LATENT_DIM = 6
BASE = 8


def make_networks(resolution=16, **options):
    torch.manual_seed(0)
    return build_networks(
        "stylegan", resolution=resolution, num_channels=1, latent_dim=LATENT_DIM, base_channels=BASE, **options
    )


def make_generator(resolution=16, **options):
    """With noise and biases that are not 0, so that they show."""
    generator = make_networks(resolution, **options).generator
    shake(generator)
    return generator


def latents(count=4):
    return torch.randn(count, LATENT_DIM, generator=torch.Generator().manual_seed(5))


def test_the_specified_numbers_of_parameters():
    with torch.device("meta"):
        assert num_parameters(Mapping(512, 512)) == 2_101_248
        # SPEC.md has one noise strength for each of the two layers, in place of one for each channel.
        assert num_parameters(SynthesisBlock(128, 64, 512)) == 242_050 + 2 * 63


def test_the_paper_counts_26_2_and_23_1_millions():
    """Karras et al. 2019, section 2: "our generator has 26.2M trainable parameters"; 23.1M in the traditional one."""
    with torch.device("meta"):
        generator, discriminator = build_networks("stylegan", resolution=1024, num_channels=3, latent_dim=512)
    assert round(num_parameters(generator) / 1e6, 1) == 26.2
    assert round(num_parameters(discriminator) / 1e6, 1) == 23.1


@pytest.mark.parametrize(("style_dim", "expected"), [(None, BASE), (5, 5)])
def test_styles_are_as_long_as_the_maps_are_wide_by_default(style_dim, expected):
    generator = make_networks(style_dim=style_dim).generator
    w = generator.mapping(latents())
    assert w.shape == (4, expected)
    assert generator.styles(w).shape == (4, 6, expected)
    assert generator(latents()).shape == (4, 1, 16, 16)
    assert generator.w_mean.shape == (expected,)


def test_signals_begin_at_unit_size():
    """Latents and smooth images of variance 1 leave every layer with a root mean square between 1/3 and 3."""
    torch.manual_seed(0)
    generator, discriminator = build_networks(
        "stylegan", resolution=32, num_channels=3, latent_dim=64, base_channels=64
    )
    seen = []
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, StyleEpilogue | BiasAct):
                module.register_forward_hook(lambda m, _, y: seen.append(y.detach().square().mean().sqrt().item()))
    images = generator(torch.randn(16, 64))
    # Of white noise the blurs would let too little through.
    discriminator(F.interpolate(torch.randn(16, 3, 4, 4), scale_factor=8))
    # Mapping; epilogues; from the image, blocks and head.
    assert len(seen) == 8 + 8 + 1 + 6 + 2
    assert all(1 / 3 < size < 3 for size in seen), seen
    assert 1 / 3 < images.square().mean().sqrt() < 3


def test_parameters_begin_as_in_the_paper():
    """Karras et al. 2019, appendix C: N(0, 1); the constant 1; biases and strengths 0, but 1 for the style's scale."""
    torch.manual_seed(0)
    networks = build_networks("stylegan", resolution=8, num_channels=3, latent_dim=64, base_channels=64)
    for network in networks:
        for name, parameter in network.named_parameters():
            p = parameter.detach().double()
            if name.endswith("constant"):
                assert bool((p == 1).all())
            elif name.endswith("style.bias"):
                assert p.tolist() == [1.0] * 64 + [0.0] * 64
            elif name.endswith(("bias", "strength")):
                assert not p.any()
            else:
                std = 100 if name.startswith("mapping") else 1
                # Five standard errors of a mean and of a standard deviation of n normal values.
                assert p.mean().abs() < 5 * std / p.numel() ** 0.5
                assert (p.std() - std).abs() < 5 * std / (2 * p.numel()) ** 0.5


@pytest.mark.parametrize(("resolution", "fade"), [(4, 1.0), (8, 1.0), (8, 0.5), (16, 1.0), (16, 0.5)])
def test_layers_that_are_not_in_use_get_no_gradient(resolution, fade):
    networks = make_networks()
    for network in networks:
        network.grow(resolution, fade)
    networks.discriminator(networks.generator(latents())).sum().backward()
    sizes = [4, 8, 16][: resolution // 8 + 1]
    to_and_from_image = [resolution] if fade == 1 else [resolution, resolution // 2]

    def in_use(name):
        name = name.removeprefix("synthesis.")
        if name.startswith("blocks."):
            return int(name.split(".")[1]) in sizes
        if name.startswith(("to_image.", "from_image.")):
            return int(name.split(".")[1]) in to_and_from_image
        return True

    for network in networks:
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == in_use(name), name


def test_the_fade_is_read_on_the_device():
    """A captured graph runs the same operations on the same buffer; the fade is nowhere else."""
    for network in make_networks():
        growing = getattr(network, "synthesis", network)
        network.grow(16, 0.5)
        buffer = growing.fade
        assert buffer.dtype == torch.float32
        x = latents() if growing is not network else torch.randn(4, 1, 16, 16)
        network.eval()
        half = network(x)
        buffer.fill_(0.25)
        quarter = network(x)
        network.grow(16, 0.25)
        assert growing.fade is buffer
        assert torch.equal(network(x), quarter)
        assert not torch.equal(half, quarter)
        assert not any("fade" in name or "noise" in name for name in network.state_dict())


@pytest.mark.parametrize(
    ("resolution", "fade", "message"),
    [
        (32, 1.0, "cannot grow to resolution 32, only to 4, 8, 16$"),
        (12, 1.0, "cannot grow to resolution 12"),
        (2, 1.0, "cannot grow to resolution 2"),
        (16, 1.1, r"fade is 1.1, expected from 0 to 1"),
        (16, -0.1, r"fade is -0.1, expected from 0 to 1"),
        (16, float("nan"), "fade is nan, expected"),
        (4, 0.5, "fade is 0.5 at resolution 4, the lowest; expected 1"),
    ],
)
def test_impossible_resolutions_and_fades_are_refused(resolution, fade, message):
    for network in make_networks():
        network.grow(8, 0.5)
        with pytest.raises(ValueError, match=message):
            network.grow(resolution, fade)
        growing = getattr(network, "synthesis", network)
        assert (growing.resolution, growing.fading, growing.fade.item()) == (8, True, 0.5)


def test_copies_and_state_dicts():
    generator, discriminator = make_networks()
    shake(generator), shake(discriminator)
    generator(latents())
    for network, x in ((generator.eval(), latents()), (discriminator, torch.randn(4, 1, 8, 8))):
        network.grow(8, 0.5)
        twin = copy.deepcopy(network)
        assert torch.equal(twin(x), network(x))
        other = make_networks()[0 if network is generator else 1].eval()
        other.load_state_dict(network.state_dict())
        other.grow(8, 0.5)
        assert torch.equal(other(x), network(x))
        # A copy grows by itself.
        twin.grow(4)
        assert network.resolution == 8


def test_sizes_and_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="resolution 128 needs base_channels of at least 4"):
        build_networks("stylegan", resolution=128, num_channels=1, base_channels=3)
    with pytest.raises(ValueError, match="style_dim is 0, expected at least 1"):
        build_networks("stylegan", resolution=8, num_channels=1, style_dim=0)
    with pytest.raises(ValueError, match=r"style_mixing is 1\.5, expected a probability"):
        build_networks("stylegan", resolution=8, num_channels=1, base_channels=4, style_mixing=1.5)
    with pytest.raises(ValueError, match=r"styles have shape \[2, 4, 8\], expected \[N, 6, 8\]"):
        make_networks().generator.synthesis(torch.zeros(2, 4, 8))
    discriminator = make_networks().discriminator
    discriminator.grow(8)
    with pytest.raises(ValueError, match=r"grown to resolution 8, not to images of shape \[4, 1, 16, 16\]"):
        discriminator(torch.zeros(4, 1, 16, 16))


# Styles: one for each layer, mixing, truncation, noise


def test_every_layer_takes_its_own_style():
    generator = make_generator().eval()
    styles = torch.randn(2, 6, BASE, requires_grad=True)
    generator.synthesis(styles, noise="constant").sum().backward()
    assert bool(styles.grad.abs().sum(2).gt(0).all())
    # Grown to 8, the layers of 16 take no notice.
    generator.grow(8)
    styles.grad = None
    generator.synthesis(styles, noise="constant").sum().backward()
    assert styles.grad.abs().sum(2).gt(0).tolist() == [[True] * 4 + [False] * 2] * 2


def test_kinds_of_noise():
    generator = make_generator()
    styles = generator.styles(generator.mapping(latents()))
    first, second = (generator.synthesis(styles) for _ in range(2))
    assert not torch.allclose(first, second)
    constant, again = (generator.synthesis(styles, noise="constant") for _ in range(2))
    assert torch.equal(constant, again)
    none = generator.synthesis(styles, noise="none")
    assert not torch.allclose(constant, none)
    for module in generator.modules():
        if isinstance(module, StyleEpilogue):
            nn.init.zeros_(module.strength)
    torch.testing.assert_close(generator.synthesis(styles, noise="constant"), none)
    with pytest.raises(ValueError, match="noise is 'some', expected 'random', 'constant', 'none'"):
        generator.synthesis(styles, noise="some")


def test_constant_noise_is_standard_normal_and_another_in_each_layer():
    noises = [t for name, t in make_generator(64).synthesis.named_buffers() if name.startswith("noise_")]
    assert [t.shape[2:].numel() for t in noises] == [16, 16, 64, 64, 256, 256, 1024, 1024, 4096, 4096]
    values = torch.cat([t.flatten() for t in noises])
    assert values.mean().abs() < 5 / len(values) ** 0.5
    assert (values.std() - 1).abs() < 5 / (2 * len(values)) ** 0.5
    for a, b in zip(noises[::2], noises[1::2], strict=True):
        assert not torch.allclose(a, b)


def test_evaluation_does_not_depend_on_the_batch_or_the_random_state():
    generator = make_generator().double().eval()
    z = latents(5).double()
    together = generator(z)
    separately = torch.cat([generator(sample) for sample in z.split([1, 3, 1])])
    torch.testing.assert_close(separately, together, rtol=0, atol=1e-12)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(generator(z), together)
    assert torch.equal(torch.get_rng_state(), state)
    # Another network with the same weights makes the same images: noise is not among what is stored.
    other = make_generator().double().eval()
    shake(other)
    other.load_state_dict(generator.state_dict())
    assert torch.equal(other(z), together)


def test_mixing_at_a_resolution():
    a, b = torch.zeros(2, 10, 3), torch.ones(2, 10, 3)
    for crossover, layers in ((4, 0), (8, 2), (16, 4), (32, 6), (64, 8)):
        mixed = mix_styles(a, b, crossover)
        assert mixed[:, :, 0].tolist() == [[0.0] * layers + [1.0] * (10 - layers)] * 2
    for crossover in (2, 12, 128):
        with pytest.raises(ValueError, match=f"crossover is {crossover}, expected one of 4, 8, 16, 32, 64"):
            mix_styles(a, b, crossover)


def styles_in_training(generator, z):
    """What forward hands to the synthesis network."""
    seen = []
    handle = generator.synthesis.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    generator(z)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("style_mixing", [0.0, 0.5, 1.0])
def test_styles_are_mixed_in_training_with_the_given_probability(style_mixing):
    generator = make_generator(style_mixing=style_mixing)
    z = latents(400)
    w = generator.mapping(z)
    styles = styles_in_training(generator, z)
    torch.testing.assert_close(styles[:, 0], w)
    of_first = (styles == styles[:, :1]).all(2)
    # One crossover: from the first latent to the second and never back, and the second is the same in all layers.
    assert bool((of_first[:, :-1] >= of_first[:, 1:]).all())
    mixed = ~of_first[:, -1]
    last = styles[:, -1:]
    assert bool(((styles == last).all(2) == ~of_first)[mixed].all())
    share = mixed.float().mean().item()
    assert abs(share - style_mixing) <= 5 * (style_mixing * (1 - style_mixing) / 400) ** 0.5
    if style_mixing == 1:
        # A crossover at each of the five layers between six, alike often: 80 of 400, within five standard errors.
        counts = torch.bincount(of_first.sum(1), minlength=7).tolist()
        assert counts[0] == counts[6] == 0
        assert all(abs(count - 80) < 5 * (400 * 0.2 * 0.8) ** 0.5 for count in counts[1:6])
    assert torch.equal(styles_in_training(generator.eval(), z), generator.styles(generator.mapping(z)))


def test_the_crossover_lies_among_the_layers_in_use():
    generator = make_generator(style_mixing=1.0)
    generator.grow(8, 0.5)
    of_first = (lambda s: (s == s[:, :1]).all(2))(styles_in_training(generator, latents(400)))
    counts = torch.bincount(of_first.sum(1), minlength=7).tolist()
    assert counts[0] == counts[4] == counts[5] == counts[6] == 0
    assert all(abs(count - 400 / 3) < 5 * (400 * 2 / 9) ** 0.5 for count in counts[1:4])


@pytest.fixture(name="mapped")
def fixture_mapped(monkeypatch):
    """Latents and w of each call of a mapping network."""
    calls = []
    forward = Mapping.forward

    def record(self, z):
        w = forward(self, z)
        calls.append((z, w))
        return w

    monkeypatch.setattr(Mapping, "forward", record)
    return calls


@pytest.mark.parametrize("style_mixing", [0.0, 0.9])
def test_the_mean_of_w_is_followed_only_in_training(style_mixing, mapped):
    generator = make_generator(style_mixing=style_mixing)
    generator.eval()(latents())
    assert not generator.w_mean.any()
    mapped.clear()
    expected = torch.zeros(BASE)
    generator.train()
    for _ in range(10):
        generator(latents())
        expected = 0.995 * expected + 0.005 * mapped[-1][1].detach().mean(0)
    torch.testing.assert_close(generator.w_mean, expected)
    assert not generator.w_mean.requires_grad
    assert torch.equal(generator.state_dict()["w_mean"], generator.w_mean)


def test_truncation():
    generator = make_generator().eval()
    generator.w_mean.normal_()
    w = generator.mapping(latents())
    styles = generator.styles(w)
    for x in (w, styles):
        assert torch.equal(generator.truncate(x, 1.0), x)
        assert torch.equal(generator.truncate(x, 0.0), generator.w_mean.expand_as(x))
        torch.testing.assert_close(generator.truncate(x, 0.7), generator.w_mean + 0.7 * (x - generator.w_mean))
    assert torch.equal(generator.styles(generator.truncate(w, 0.7)), generator.truncate(styles, 0.7))

    coarse = generator.truncate(styles, 0.0, num_layers=4)
    assert torch.equal(coarse[:, :4], generator.w_mean.expand(4, 4, -1))
    assert torch.equal(coarse[:, 4:], styles[:, 4:])
    with pytest.raises(ValueError, match=r"w has shape \[4, 8\] and no layers"):
        generator.truncate(w, 0.5, num_layers=4)

    images = generator.synthesis(generator.truncate(styles, 0.0), noise="constant")
    assert not torch.allclose(images, generator(latents()))
    torch.testing.assert_close(images, images[:1].expand_as(images))

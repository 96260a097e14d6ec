"""The generator's styles: one for each layer, mixing, truncation, noise."""

import pytest
import torch
from torch import nn
from twins import shake

from fastgan.models.stylegan import Mapping, StyleGANGenerator, mix_styles
from fastgan.nn import StyleEpilogue

LATENT_DIM = 6
BASE = 8


def make_generator(resolution=16, **options):
    """With noise and biases that are not 0, so that they show."""
    torch.manual_seed(0)
    generator = StyleGANGenerator(resolution, 1, LATENT_DIM, base_channels=BASE, **options)
    shake(generator)
    return generator


def latents(count=4):
    return torch.randn(count, LATENT_DIM, generator=torch.Generator().manual_seed(5))


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

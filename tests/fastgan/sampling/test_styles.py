import pytest
import torch

from fastgan.models import build_networks
from fastgan.models.stylegan import mix_styles
from fastgan.sampling import (
    SamplingError,
    draw_latents,
    layers_of,
    map_latents,
    mix,
    mix_all,
    principal_directions,
    render,
    render_styles,
)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    network = build_networks("stylegan", resolution=64, num_channels=1, latent_dim=6, base_channels=4).generator
    for _ in range(3):
        network(torch.randn(16, 6))  # the average is tracked while it trains
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.3)  # noise begins without effect
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def w(generator):
    return map_latents(generator, draw_latents(5, 6, seed=1))


@pytest.mark.parametrize("truncation", [1.0, 0.4])
def test_images_of_w_are_those_of_the_latents(generator, w, truncation):
    latents = draw_latents(5, 6, seed=1)
    images = render(generator, latents, truncation=truncation)
    assert torch.equal(render_styles(generator, w, truncation=truncation), images)
    assert torch.equal(render_styles(generator, generator.styles(w), truncation=truncation), images)


def test_noise_can_be_left_out(generator, w):
    without = render_styles(generator, w, noise="none")
    assert not torch.equal(without, render_styles(generator, w))
    with torch.inference_mode():
        styles = generator.styles(torch.cat([w, w[-1:].expand(11, -1)]))
        assert torch.equal(without, generator.synthesis(styles, noise="none")[:5])


@pytest.mark.parametrize("seed", range(4))
def test_components_find_the_directions_in_which_w_is_made_to_vary(generator, monkeypatch, seed):
    from fastgan.sampling import styles

    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))[0]
    deviations = torch.tensor([0.1, 3.0, 1.0, 0.4])
    sample = draw_latents(10_000, 4, seed=5) * deviations @ turn.T + 7
    monkeypatch.setattr(styles, "map_latents", lambda *_: sample)
    directions = principal_directions(generator)
    for found, expected in zip(directions.vectors, turn.T[[1, 2, 3, 0]], strict=True):
        assert torch.dot(found, expected).abs() > 0.999
        assert found[found.abs().argmax()] > 0
    torch.testing.assert_close(directions.deviations, deviations[[1, 2, 3, 0]], rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("crossover", "layers"),
    [
        ("4", (0, 10)),
        ("16", (4, 10)),
        ("64", (8, 10)),
        ("coarse", (0, 4)),
        ("middle", (4, 8)),
        ("fine", (8, 10)),
    ],
)
def test_a_crossover_is_a_resolution_or_a_range(generator, crossover, layers):
    assert layers_of(generator, crossover) == layers


def test_a_range_above_the_resolution_that_is_grown_to_is_refused(generator):
    generator.grow(16)
    try:
        assert layers_of(generator, "middle") == (4, 6)
        for beyond in ("fine", "32"):
            with pytest.raises(SamplingError, match=r"expected one of 4, 8, 16, coarse, middle$"):
                layers_of(generator, beyond)
    finally:
        generator.grow(64)


def test_mixing_from_a_resolution_on_is_that_of_the_model(generator, w):
    a, b = generator.styles(w[:2]), generator.styles(w[2:4])
    assert torch.equal(mix(a, b, layers_of(generator, "16")), mix_styles(a, b, 16))
    middle = mix(a, b, layers_of(generator, "middle"))
    assert torch.equal(middle[:, 4:8], b[:, 4:8])
    assert torch.equal(middle[:, :4], a[:, :4])
    assert torch.equal(middle[:, 8:], a[:, 8:])


def test_a_grid_has_every_row_with_every_column(generator, w):
    layers = layers_of(generator, "16")
    mixed = mix_all(generator, w[:2], w[2:], layers)
    assert mixed.shape == (2, 3, 10, 4)
    for i in range(2):
        for j in range(3):
            assert torch.equal(
                mixed[i, j], mix(generator.styles(w[i : i + 1]), generator.styles(w[2 + j : 3 + j]), layers)[0]
            )

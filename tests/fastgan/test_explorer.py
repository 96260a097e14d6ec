import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import sampling
from fastgan.data import to_uint8
from fastgan.explorer import Explorer
from fastgan.models import build_networks


def make(model, **settings):
    torch.manual_seed(0)
    settings = {"resolution": 16, "num_channels": 1, "base_channels": 8, "latent_dim": 6} | settings
    generator = build_networks(model, **settings).generator
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.3)  # noise begins without effect
            elif generator.num_classes is not None and parameter.dim() == 2:
                parameter.normal_()  # and the classes all alike
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def styles():
    return Explorer(make("stylegan"))


@pytest.fixture(scope="module")
def by_class():
    return Explorer(make("dcgan", num_classes=3, num_channels=3))


def test_the_page_begins_with_the_first_image_of_the_seed_enlarged(styles, by_class):
    for explorer in (styles, by_class):
        image = explorer.image(4)
        expected = to_uint8(sampling.generate(explorer.generator, 1, seed=4)[0]).permute(1, 2, 0).squeeze(2).numpy()
        assert image.shape[:2] == (384, 384)
        assert np.array_equal(image[::24, ::24], expected)


def test_every_input_of_styles_changes_the_image(styles):
    inputs = [
        {},
        {"seed": 1},
        {"offsets": [0.0, 2.0]},
        {"truncation": 0.5},
        {"noise": False},
        {"crossover": "coarse", "other_seed": 5},
        {"crossover": "16", "other_seed": 5},
        {"crossover": "16", "other_seed": 6},
    ]
    images = [styles.image(**{"seed": 0} | changes) for changes in inputs]
    assert len({image.tobytes() for image in images}) == len(inputs)
    assert np.array_equal(styles.image(0, [0.0] * 8, other_seed=9), images[0])
    assert np.array_equal(styles.image(0, crossover="4", other_seed=5), styles.image(5))


def test_a_slider_goes_along_a_component_in_its_deviations(styles):
    directions = sampling.principal_directions(styles.generator)
    w = sampling.map_latents(styles.generator, sampling.draw_latents(1, 6, seed=0))
    moved = w - 1.5 * directions.deviations[2] * directions.vectors[2]
    expected = to_uint8(sampling.render_styles(styles.generator, moved))[0, 0].numpy()
    # The zeros before it are added too, and may round.
    assert np.abs(styles.image(0, [0, 0, -1.5])[::24, ::24].astype(int) - expected).max() <= 1


def test_class_and_dimensions_of_a_latent_change_the_image(by_class):
    images = [by_class.image(0), by_class.image(0, label=2), by_class.image(0, [0.0, 1.0]), by_class.image(1)]
    assert len({image.tobytes() for image in images}) == 4
    assert (by_class.num_directions, by_class.crossovers) == (6, [])


def test_crossovers_are_those_of_the_resolution(styles):
    assert styles.crossovers == ["none", "coarse", "middle", "4", "8", "16"]
    for crossover in styles.crossovers:
        styles.image(0, crossover=crossover)


@pytest.mark.exhaustive
def test_the_page_works_in_a_browser_and_asks_nobody_else():
    pytest.importorskip("gradio")
    pytest.importorskip("playwright")
    from docs.make.explorer import find_browser, visit
    from fastgan import explorer

    if find_browser() is None:
        pytest.skip("there is no Chromium")
    page = explorer.build_page(Explorer(make("stylegan")), "a title")
    address = explorer.serve(page, "127.0.0.1", 7891)
    try:
        assert address.startswith("http://127.0.0.1:7891")
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        with visit(address) as found:
            assert found.page.title() == "a title"
            seen = [found.pixels()]
            found.move_slider("Component 1 of w")
            seen.append(found.pixels())
            found.set_number("Seed", 3)
            seen.append(found.pixels())
            found.move_slider("Truncation")
            seen.append(found.pixels())
            found.uncheck("Noise")
            seen.append(found.pixels())
            found.choose("Styles of B", "coarse")
            seen.append(found.pixels())
            assert len(set(seen)) == len(seen)
            with Image.open(io.BytesIO(seen[0])) as image:
                assert image.size == (384, 384)
            assert found.foreign == []
            assert found.errors == []
    finally:
        page.close()

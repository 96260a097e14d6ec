import io
import os
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import sampling
from fastgan.data import to_uint8
from fastgan.explorer import Explorer
from fastgan.exporting import save_generator
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
        assert image.shape[:2] == (1024, 1024)
        assert np.array_equal(image[::64, ::64], expected)


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
    assert np.abs(styles.image(0, [0, 0, -1.5], edge=0).astype(int) - expected).max() <= 1


def test_class_and_dimensions_of_a_latent_change_the_image(by_class):
    images = [by_class.image(0), by_class.image(0, label=2), by_class.image(0, [0.0, 1.0]), by_class.image(1)]
    assert len({image.tobytes() for image in images}) == 4
    assert (by_class.num_directions, by_class.crossovers) == (6, {})


def test_crossovers_are_those_of_the_resolution(styles):
    assert list(styles.crossovers) == ["none", "coarse", "middle", "4", "8", "16"]
    assert [styles.crossovers[name] for name in ("coarse", "8")] == ["coarse: 4, 8", "from 8x8 on"]
    for crossover in styles.crossovers:
        styles.image(0, crossover=crossover)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("styles", {"truncation": 1, "noise": True, "crossover": "none", "other_seed": 1}),
        ("styles", {"truncation": 0.5, "noise": True, "crossover": "none", "other_seed": 1}),
        (
            "styles",
            {"truncation": 0.7, "noise": False, "crossover": "none", "other_seed": 1, "offsets": [0.0, 1.2, 0.0]},
        ),
        ("styles", {"truncation": 1, "noise": True, "crossover": "coarse", "other_seed": 5}),
        ("by_class", {"label": 2}),
        ("by_class", {"label": 1, "offsets": [0.3000000001] + [0.0] * 5}),
    ],
)
def test_the_command_makes_the_image(fastgan, tmp_path, monkeypatch, request, name, inputs):
    explorer = request.getfixturevalue(name)
    run = tmp_path / "a run"
    save_generator(explorer.generator, run)
    monkeypatch.chdir(tmp_path)
    command = shlex.split(explorer.command(str(run), 3, **inputs))
    if command[0] == "fastgan":
        assert fastgan(*command[1:])[::2] == (0, "")
        path = tmp_path / "image" / "00000.png"
    else:
        assert command[:2] == ["python", "-c"]
        exec(command[2])
        path = tmp_path / "image.png"
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), explorer.image(3, edge=0, **inputs))


def test_the_command_of_a_folder_with_a_strange_name_is_one_of_the_shell(styles):
    command = shlex.split(styles.command("it's $5", 0, [1.0]))
    assert (len(command), 'load_generator("it\'s $5")' in command[2]) == (3, True)


def test_the_command_of_a_users_own_networks_names_them(by_class):
    assert "--model mine:build " in by_class.command("run", 0, model="mine:build")
    assert "load_generator('run', model='mine:build')" in by_class.command("run", 0, [1.0], model="mine:build")


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
            found.move_slider("Component 1 of w (offset)")
            seen.append(found.pixels())
            found.set_number("Seed", 3)
            seen.append(found.pixels())
            found.move_slider("Truncation")
            seen.append(found.pixels())
            found.uncheck("Noise")
            seen.append(found.pixels())
            found.choose("Take from B", "coarse: 4, 8")
            seen.append(found.pixels())
            assert found.page.locator("#pair img").count() == 2
            assert "other_seed=1" in found.page.locator("#command textarea").input_value()
            found.click("Random seed")
            seen.append(found.pixels())
            assert len(set(seen)) == len(seen)
            with Image.open(io.BytesIO(seen[0])) as image:
                assert image.size == (1024, 1024)
            found.click("Reset")
            assert found.pixels() == seen[0]
            found.page.get_by_text("Other seeds").click()
            found.click("Thumbnail 4 of 12")
            assert found.page.locator("#command textarea").input_value().endswith("--seed 3 --count 1 --out image")
            assert found.foreign == []
            assert found.errors == []
        widths = []
        for width in (400, 1100, 1900):
            with visit(address, width, 1000) as found:
                image, controls = (found.page.locator(name).bounding_box() for name in ("#image img", "#controls"))
                assert image["x"] + image["width"] <= controls["x"], "the image is beside the controls"
                assert controls["x"] + controls["width"] <= width
                widths.append(image["width"])
        assert widths == sorted(set(widths))
        assert widths[0] > 180
    finally:
        page.close()

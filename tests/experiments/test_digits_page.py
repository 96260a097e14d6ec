"""The experiments on the digits, with results that are made up and networks that are not trained."""

import pytest
import torch

from experiments import style_mixing
from experiments.digits import Result, presets
from experiments.digits_report import page
from fastgan.models import build_networks


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    networks = build_networks("stylegan", resolution=16, num_channels=1, latent_dim=8, base_channels=8)
    return networks.generator.eval()


def test_the_presets_are_those_of_the_digits():
    names = presets()
    assert {"dcgan", "wgan-gp", "sngan", "stylegan", "conditional-dcgan"} <= set(names)
    assert "gaussians" not in names


def test_a_class_counts_from_a_fifth_of_its_share_on():
    result = Result((20, 19, 0, 161, 100, 100, 150, 150, 150, 150), None, 1.0, 2.0, 1)
    assert result.classes == 8


def test_the_more_layers_b_has_the_more_of_b_there_is(generator, monkeypatch):
    monkeypatch.setattr(style_mixing, "NUM_PAIRS", 64)
    found = style_mixing.measure(generator)
    assert [crossover.resolution for crossover in found] == [16, 8, 4]
    coarse = [crossover.coarse for crossover in found]
    assert coarse == sorted(coarse)
    assert 0 < coarse[0] < coarse[1] < 0.95
    # From 4 on nothing is left of A.
    assert found[-1].coarse == pytest.approx(1)
    assert found[-1].fine == pytest.approx(1)
    assert found[-1].digit_of_b == 1
    assert found[-1].digit_of_a == 0


def test_the_picture_has_a_row_for_a_and_one_for_each_crossover(generator, tmp_path):
    from PIL import Image

    style_mixing.draw(generator, tmp_path / "mixing.png")
    with Image.open(tmp_path / "mixing.png") as picture:
        assert picture.size == (8 * 18 + 2, 4 * 18 + 2)


def test_the_page_says_what_the_results_say():
    results = {
        ("dcgan", 0): Result((100,) * 10, None, 61.0, 119.6, 2),
        ("conditional-dcgan", 0): Result((90, 110, *(100,) * 8), (0.9512, 0.87), 3.0, 4.0, 2),
    }
    text = page(results, [style_mixing.Crossover(4, 0.0, 1.0, 1.0, 0.995)])
    assert "| `dcgan` | 0 | 10 of 10 | 10.0% |  | 1:01 | 2:00 |" in text
    assert "| `conditional-dcgan` | 0 | 10 of 10 | 9.0% | 95.1%, 87% | 0:03 | 0:04 |" in text
    assert "| 4 | 0% | 100% | 100% | 100% |" in text
    assert "![64 digits of dcgan](digits-dcgan.png)" in text
    assert all(len(line) <= 140 or line.startswith(("|", "!")) for line in text.splitlines())

"""The page on judging generated images, and the network that it judges by."""

from pathlib import Path

import pytest
import safetensors.torch

from experiments import evaluation
from experiments.digit_network import fit
from fastgan.metrics.collapse import Answer, Collapse
from fastgan.metrics.digit_network import ACCURACY, WEIGHTS
from fastgan.metrics.shares import Shares


def test_the_page_that_is_kept_is_what_the_command_writes():
    collapse = Collapse(
        tuple(Answer(way, 0.8, f"evidence of {way}") for way in ("looking", "clustering", "score")),
        Shares("digits", ["0"], [1], [1], 1, 1),
    )
    written = evaluation._page("DAMAGES", collapse, "COMPARISON")
    assert all(part in written for part in ("DAMAGES", "COMPARISON", "- by clustering: collapsed; evidence of clust"))
    assert f"{ACCURACY:.1%} right" in written
    kept = (Path(__file__).parents[2] / "docs" / evaluation.PAGE).read_text(encoding="utf-8")
    figures = ("DAMAGES", "COMPARISON", "- by ")
    text = [line for line in written.splitlines() if line and not line.startswith(figures)]
    assert not [line for line in text if line not in kept.splitlines()]
    for picture in (evaluation.PICTURE, evaluation.RUN_PICTURE):
        assert f"]({picture})" in kept
        assert (Path(__file__).parents[2] / "docs" / picture).is_file()


@pytest.mark.slow
def test_the_file_of_weights_is_made_by_its_command(tmp_path):
    accuracy = fit(tmp_path / "weights.safetensors")
    # Another build of torch rounds otherwise, and training tells: 450 held-out images, five standard errors of 99%.
    assert abs(accuracy - ACCURACY) < 5 * (0.01 * 0.99 / 450) ** 0.5
    made, kept = (safetensors.torch.load_file(path) for path in (tmp_path / "weights.safetensors", WEIGHTS))
    assert {name: tensor.shape for name, tensor in made.items()} == {name: x.shape for name, x in kept.items()}

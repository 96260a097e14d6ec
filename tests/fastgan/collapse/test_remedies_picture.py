import pytest
import torch

from fastgan.collapse.picture import every_second, remedies_picture
from fastgan.collapse.trials import Moment, Trial
from fastgan.metrics.collapse import Answer, Collapse
from fastgan.metrics.shares import Shares

BLUE, GRAY, GREEN = ([31, 90, 180], [150, 150, 150], [26, 127, 55])
# Where things are: names 190 wide, samples 146, bars 210 and curves 170, with 14 between.
LEFT, TILE, STEP = 218, 146, 160


def trial(remedy="none", generated=(100,) * 4 + (0,) * 4, steps=(1, 2, 3, 4), shape=(1, 16, 16), collapse=True):
    shares = Shares("modes", [f"({i}, 0)" for i in range(8)], [100] * 8, generated, 800, sum(generated))
    shown = torch.full((64, *shape), 255, dtype=torch.uint8)
    moments = [Moment(step, shares, 0.75, shown) for step in steps]
    answers = (Answer("looking", 0.5, ""), Answer("clustering", 0.5, ""), Answer("score", None, ""))
    return Trial(remedy, {"lr": 0.5}, moments, Collapse(answers, shares) if collapse else None)


def count(pixels, color):
    return int((pixels == torch.tensor(color)[:, None, None]).all(0).sum())


def reddish(pixels):
    """Letters are too thin to have a pixel of the full color."""
    red, green, blue = pixels.int()
    return int(((red - green > 50) & (red - blue > 50)).sum())


def test_every_second_item_and_the_last():
    assert every_second([1, 2, 3, 4]) == [2, 4]
    assert every_second([1, 2, 3]) == [1, 3]
    assert every_second([1]) == [1]
    assert every_second([]) == []


def test_a_row_for_each_trial_with_samples_bars_and_curves():
    drawn = remedies_picture([trial(), trial("r1")], 2)
    assert drawn.shape == (3, 30 + 2 * 176, LEFT + 2 * STEP + 210 + 14 + 170 + 14)
    assert drawn.dtype == torch.uint8
    for top in (30, 30 + 176):
        row = drawn[:, top : top + 176]
        # A grid of white digits on black, as large as it comes.
        assert torch.equal(row[0, :146, LEFT : LEFT + TILE] < 128, row[0, :146, LEFT + STEP : LEFT + STEP + TILE] < 128)
        assert (row[0, :146, LEFT : LEFT + TILE] > 250).sum() == 64 * 16 * 16
        bars, curves = row[:, :, LEFT + 2 * STEP :][:, :, :217], row[:, :, LEFT + 2 * STEP + 217 :]
        # Four modes have twice their share, and four have none; their names are red.
        assert count(bars, BLUE) == pytest.approx(count(bars, GRAY), rel=0.05)
        assert reddish(bars) > 0
        assert min(count(curves, BLUE), count(curves, GREEN)) > 0


def test_modes_that_are_there_have_no_red_name():
    whole = remedies_picture([trial(generated=(100,) * 8)], 2)[:, :, LEFT + 2 * STEP :]
    assert reddish(whole) == 0


def test_points_are_drawn_as_points():
    drawn = remedies_picture([trial(shape=(2, 1, 1))], 2)
    tile = drawn[:, 30 : 30 + TILE, LEFT : LEFT + TILE]
    # Red circles hold the modes; the points lie all in the corner at the top right.
    assert reddish(tile) > 50
    assert count(tile[:, :4, -4:], BLUE) > 0
    assert count(tile[:, 20:, :-20], BLUE) == 0


def test_a_trial_with_non_finite_values_has_a_row_too():
    ended, never = trial(steps=(1, 2), collapse=False), trial(steps=(), collapse=False)
    drawn = remedies_picture([trial(), ended, never], 2)
    assert drawn.shape[1] == 30 + 3 * 176
    third = drawn[:, 30 + 2 * 176 :]
    assert (third[:, :, LEFT:] == 255).all()
    assert reddish(third[:, :, :LEFT]) > 0, "the verdict"

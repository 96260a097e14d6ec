import pytest
import torch

from fastgan.data import load_dataset, normalize
from fastgan.metrics.collapse import detect_collapse
from fastgan.metrics.collapse_picture import collapse_picture
from fastgan.metrics.digits import classify_digits
from fastgan.metrics.features import Features
from fastgan.metrics.shares import Shares
from tests.fastgan.metrics import digit_sets


def shares(real, generated, **kind):
    names = [str(i) for i in range(len(real))]
    return Shares("digits", names, real, generated, sum(real), sum(generated))


def digit_shares(images):
    counts = [
        classify_digits(normalize(x)).bincount(minlength=10).tolist() for x in (digit_sets.digits().images, images)
    ]
    return shares(*counts)


def judged(images):
    real, generated = digit_sets.features_of_digits(), digit_sets.features_of(images)
    return detect_collapse(real, generated, digit_shares(images), seed=0)


def verdicts(collapse):
    return {answer.way: answer.verdict for answer in collapse.answers}


def test_ones_and_sevens_are_collapsed_three_ways():
    collapse = judged(digit_sets.digits().images[digit_sets.of_classes(1, 7)])
    assert verdicts(collapse) == dict.fromkeys(("looking", "clustering", "score"), "collapsed")
    assert collapse.verdict == "collapsed"
    looking, clustering, score = collapse.answers
    assert "2 of 10 digits are captured, 0, 2, 3, 4, 5, 6, 8 and 9 are missing" in looking.evidence
    assert looking.lost == pytest.approx(0.8, abs=0.01)
    assert clustering.lost > 0.7
    assert score.lost > 0.7
    assert collapse.shown.lost() == [0, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("changed", ["half", "noisy", "dropped"])
def test_what_shows_most_of_the_digits_is_not_collapsed(changed):
    images = {
        "half": digit_sets.digits().images[digit_sets.halves()[0]],
        "noisy": digit_sets.noisy(40),
        "dropped": digit_sets.digits().images[digit_sets.of_classes(*range(1, 10))],
    }[changed]
    collapse = judged(images)
    assert set(verdicts(collapse).values()) == {"not collapsed"}
    assert collapse.verdict == "not collapsed"
    assert collapse.shown.lost() == ([0] if changed == "dropped" else [])


def test_a_single_image_over_and_over_is_collapsed():
    collapse = judged(digit_sets.digits().images[:1].expand(500, -1, -1, -1))
    assert verdicts(collapse) == dict.fromkeys(("looking", "clustering", "score"), "collapsed")


def test_images_that_are_unlike_the_real_ones_get_no_answer_of_the_score():
    collapse = judged(digit_sets.noisy(160))
    assert verdicts(collapse)["score"] == "no answer"
    assert "most images are unlike real ones" in collapse.answers[2].evidence


def test_without_classes_there_is_the_picture_and_clusters_to_show():
    real = digit_sets.features_of_digits()
    collapse = detect_collapse(real, digit_sets.at(real, digit_sets.of_classes(1, 7)), None, seed=0)
    assert verdicts(collapse) == {"looking": "no answer", "clustering": "collapsed", "score": "collapsed"}
    assert collapse.shown.kind == "clusters"
    assert collapse.verdict == "collapsed"


def test_split_answers_are_in_doubt():
    from fastgan.metrics.collapse import Answer, Collapse

    def verdict(*lost):
        return Collapse(tuple(Answer("way", x, "") for x in lost), shares([1], [1])).verdict

    assert verdict(0.25, 0.0, None) == "in doubt"
    assert verdict(None, None, None) == "in doubt"
    assert verdict(0.25, 0.0, 0.3) == "collapsed"
    assert verdict(0.24, 0.0, 0.3) == "not collapsed"
    assert verdict(None, None, 0.3) == "collapsed"


def test_few_images_are_enough_for_a_verdict():
    random = torch.Generator().manual_seed(0)
    real, generated = (Features(torch.randn(12, 3, generator=random), None) for _ in range(2))
    assert detect_collapse(real, generated, None, seed=0).verdict in ("collapsed", "not collapsed", "in doubt")


def test_a_group_is_lost_below_a_fifth_and_not_by_chance():
    assert shares([100, 900], [19, 981]).lost() == [0]
    assert shares([100, 900], [21, 979]).lost() == []
    # One of ten that none of twenty images show: 0.9^20 = 12% by chance.
    assert shares([100, 900], [0, 20]).lost() == []
    assert shares([100, 0, 900], [0, 0, 1000]).lost() == [0]
    assert shares([100, 0, 900], [0, 0, 1000]).captured == 1
    assert shares([100, 900], [0, 1000]).lost_share() == 0.1


def test_distance_and_test_of_shares():
    assert shares([50, 50], [50, 50]).distance() == 0
    assert shares([50, 50], [100, 0]).distance() == pytest.approx(0.5)
    assert shares([50, 50], [50, 50]).p_value() == 1
    assert shares([50, 50], [100, 0]).p_value() < 1e-10
    # What is in no group is a group of its own.
    beside = Shares("modes", ["0"], [100], [0], 100, 100)
    assert beside.distance() == 1
    assert beside.p_value() < 1e-10
    assert Shares("modes", ["0"], [0], [0], 10, 10).p_value() == 1


def test_the_picture_shows_both_and_the_bars():
    real, generated = torch.zeros(1, 20, 20, dtype=torch.uint8), torch.full((3, 20, 20), 200, dtype=torch.uint8)
    drawn = collapse_picture(real, generated, shares([50, 50], [100, 0]))
    assert drawn.dtype == torch.uint8
    assert drawn.shape[0] == 3
    colors = drawn.flatten(1).T
    counts = {
        color: int((colors == torch.tensor(color, dtype=torch.uint8)).all(dim=1).sum())
        for color in ((0, 0, 0), (200, 200, 200), (150, 150, 150), (31, 90, 180))
    }
    assert counts[0, 0, 0] == counts[200, 200, 200] == 400 * 400
    # Two gray bars of half the height of the blue one; each row of pixels counts, and the base line covers one.
    assert counts[150, 150, 150] == pytest.approx(counts[31, 90, 180], rel=0.03)
    # The name of a lost class is red, in shades where letters are smoothed.
    red, green, _ = drawn.int()
    assert (red - green > 100).any()
    assert not (collapse_picture(real, generated, shares([50, 50], [50, 50])).int().diff(dim=0)[0] < -100).any()


def test_one_class_of_no_images_draws():
    picture = torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert collapse_picture(picture, picture, Shares("modes", ["0"], [0], [0], 10, 10)).shape[0] == 3


def test_points_of_one_mode_are_collapsed():
    points = load_dataset("gaussians")
    values = points.images[:2000, :, 0, 0].float()
    kept = values[points.labels[:2000] == 3]
    collapse = detect_collapse(Features(values, None), Features(kept, None), None, seed=0)
    assert collapse.verdict == "collapsed"

import dataclasses
import json

import pytest

from fastgan.metrics import MetricsError
from fastgan.metrics.comparison import comparison_notes, recommend
from fastgan.metrics.report import Basis, Evaluation, read_report, require_comparable, to_json
from fastgan.metrics.scores import Score

BASIS = Basis("digits", "0123456789abcdef", "none", "1x28x28", "digits", "fedcba9876543210", 1797, 1000)


def evaluation(run, *, error=0.01, basis=BASIS, **values):
    values = {"fid": 1.0, "precision": 0.5, "recall": 0.5, "f1": 0.5} | values
    scores = {name: Score(value, error, None) for name, value in values.items()}
    return Evaluation(run, 10, 0, basis, scores, {"verdict": "not collapsed"}, ["a note"])


def by_purpose(*evaluations):
    return {found.purpose: found for found in recommend(evaluations)}


def test_each_purpose_has_its_own_score():
    found = by_purpose(
        evaluation("a", precision=0.9, recall=0.1, fid=3.0),
        evaluation("b", precision=0.1, recall=0.9, fid=2.0),
        evaluation("c", precision=0.4, recall=0.4, fid=1.0),
    )
    assert {purpose: one.run for purpose, one in found.items()} == {
        "quality alone": "a",
        "augmentation": "b",
        "general use": "c",
    }
    assert all(one.sure for one in found.values())
    assert (
        found["quality alone"].reason == "its precision is best, 0.9 (0.88 to 0.92); c is next with 0.4 (0.38 to 0.42)"
    )
    assert found["general use"].reason == "its FID is best, 1 (0.98 to 1.02); b is next with 2 (1.98 to 2.02)"


def test_fid_that_does_not_differ_leaves_it_to_the_balance():
    a, b = evaluation("a", fid=1.0, f1=0.5), evaluation("b", fid=1.02, f1=0.7)
    worse = evaluation("c", fid=2.0, f1=0.9)
    found = by_purpose(a, b, worse)["general use"]
    assert (found.run, found.sure) == ("b", True)
    assert "the FID of a is lowest, 1 (0.98 to 1.02), and the difference to b is within the confidence" in found.reason
    assert "; of these b has the best balance of precision and recall: its F1 is best, 0.7" in found.reason
    # Where it does, the balance does not count.
    assert by_purpose(a, evaluation("b", fid=1.03, f1=0.7))["general use"].run == "a"


def test_a_difference_within_the_intervals_is_reported():
    found = by_purpose(evaluation("a", precision=0.5), evaluation("b", precision=0.51))
    assert found["quality alone"].run == "b"
    assert not found["quality alone"].sure
    assert found["quality alone"].reason.endswith("; the difference to a is within the confidence intervals")
    tied = found["general use"]
    assert not tied.sure
    assert tied.reason.endswith(
        "b is next with 0.5 (0.48 to 0.52); the difference to b is within the confidence intervals"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": "inception"}, "those of 'a' are of features digits, those of 'b' of features inception"),
        (
            {"features_digest": "x" * 64},
            "the digest 0123456789ab, those of 'b' of features of the digest xxxx",
        ),
        ({"filter": "bicubic"}, "the filter 'none', those of 'b' of the filter 'bicubic'"),
        ({"num_real": 5}, "1,797 real images, those of 'b' of 5 real images"),
        ({"num_generated": 5}, "1,000 generated images, those of 'b' of 5 generated images"),
        (
            {"data_digest": "y" * 64},
            "the digest fedcba987654, those of 'b' of real images of the digest yyy",
        ),
        (
            {"image_size": "1x32x32", "data": "photos"},
            "real images of 'digits', those of 'b' of real images of 'photos'",
        ),
    ],
)
def test_scores_with_another_basis_are_not_compared(change, words):
    other = dataclasses.replace(BASIS, **change)
    with pytest.raises(MetricsError) as caught:
        recommend([evaluation("a"), evaluation("b", basis=other)])
    assert str(caught.value).startswith("the scores of 'a' and 'b' cannot be compared: those of 'a' are of ")
    assert words in str(caught.value)


def test_models_of_two_sizes_are_compared_with_a_note():
    larger = dataclasses.replace(BASIS, image_size="1x32x32", data_digest="of the larger ones")
    require_comparable({"a": BASIS, "b": larger})
    both = [evaluation("a"), evaluation("b", basis=larger)]
    assert comparison_notes(both) == ["images of 1x28x28 and 1x32x32 are compared, each with real ones of its own size"]
    assert comparison_notes(both[:1]) == []


def test_a_report_comes_back_as_it_was(tmp_path):
    written = [evaluation("a"), evaluation("b", fid=0.001)]
    content = to_json(written)
    assert content["evaluations"][1]["scores"]["fid"]["low"] == 0
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    assert read_report(path) == written


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("", "is not a report"),
        ("[]", "is not a report"),
        ("{}", "is not a report"),
        ('{"format": 9}', "has format 9, expected 1"),
        ('{"format": 1, "evaluations": [{}]}', "is not a report"),
        ('{"format": 1, "evaluations": [3]}', "is not a report"),
        ("NAN", "is not a report"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, sentence):
    path = tmp_path / "report.json"
    if text == "NAN":
        text = json.dumps(to_json([evaluation("a")])).replace("1.0", "NaN")
    if text is not None:
        path.write_text(text)
    with pytest.raises(MetricsError, match=sentence):
        read_report(path)

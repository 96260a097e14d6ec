"""The page on mode collapse, from reports that are made up."""

import json
from pathlib import Path

import pytest

from experiments import collapse
from fastgan.laboratory.remedies import BENCHES

DOCS = Path(__file__).parents[2] / "docs"


def report(data, num_modes):
    def trial(name, captured, lost, said):
        return {
            "remedy": name,
            "settings": BENCHES[data].remedies()[name],
            "verdict": "collapsed",
            "against_none": said,
            "moments": [
                {"step": 1, "captured": 0, "high_quality": 0.0},
                {"step": 2, "captured": captured, "high_quality": 0.875},
            ],
            "collapse": {"answers": [{"lost": lost}, {"lost": lost}, {"lost": None}]},
        }

    failed = trial("r1", 0, 0.0, "does not help") | {"collapse": None, "verdict": "not finite"}
    return {
        "data": data,
        "modes": ["m"] * num_modes,
        "high_quality_of_real": 0.9,
        "trials": [trial("none", 2, 0.75, ""), trial("spectral-norm", 5, 0.3, "helps, not enough"), failed],
    }


@pytest.fixture
def reports():
    return {"gaussians": report("gaussians", 8), "digits": report("digits", 10)}


def test_the_page_says_what_the_reports_say(reports):
    written = collapse.page(reports)
    for row in (
        "| none |  | 2 of 8 | 87.5% | 75% | 75% | no answer | collapsed |  |",
        "| spectral-norm | `spectral_norm=true` | 5 of 10 | 87.5% | 30% | 30% | no answer | collapsed | helps, not e",
        "| r1 | `regularizer=r1 regularizer_weight=0.02` |  |  |  |  |  | not finite | does not help |",
    ):
        assert f"\n{row}" in written
    assert "\n\nCut off before label-smoothing, two-time-scales, minibatch-stddev," in written
    assert "90.0% are of high quality" in written


def test_the_page_that_is_kept_is_what_the_command_writes(reports):
    kept = (DOCS / collapse.PAGE).read_text(encoding="utf-8").splitlines()
    figures = ("|", "Cut off before", "Of the data themselves", "digit network)")
    # What has not been run yet has no section.
    there = {data: report for data, report in reports.items() if f"({collapse.picture_of(data)})" in "".join(kept)}
    assert "gaussians" in there
    written = [line for line in collapse.page(there).splitlines() if not line.startswith(figures)]
    assert not [line for line in written if line not in kept]
    assert all((DOCS / collapse.picture_of(data)).is_file() for data in there)


def test_a_laboratory_that_has_its_report_is_kept(reports, tmp_path):
    for data in BENCHES:
        (tmp_path / data).mkdir()
        (tmp_path / data / "report.json").write_text(json.dumps(reports[data]))
        (tmp_path / data / "collapse.png").write_bytes(data.encode())
    docs = tmp_path / "docs"
    docs.mkdir()
    collapse.draw(tmp_path, docs)
    assert (docs / "collapse.md").read_text(encoding="utf-8") == collapse.page(reports)
    assert (docs / "collapse-digits.png").read_bytes() == b"digits"

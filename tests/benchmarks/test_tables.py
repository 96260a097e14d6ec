"""The table of results, what is drawn from it, and the comparison of two."""

import re
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.__main__ import main
from benchmarks.compare import compare
from benchmarks.ops import OPS
from tests.benchmarks.rows import KEYS, row, rows, step_rows


def test_rows_are_appended_below_one_header_and_read_back(tmp_path: Path):
    path = tmp_path / results.FILE
    results.append(path, [{"op": "adain", "bytes": 12}])
    results.append(path, [{"op": "bias_act", "peak_bytes": None}])
    assert path.read_text().count("implementation") == 1
    for source in (path, tmp_path):
        first, second = results.read(source)
        assert (first["op"], first["bytes"], second["op"], second["peak_bytes"]) == ("adain", "12", "bias_act", "")
    with pytest.raises(ValueError, match="speed"):
        results.append(path, [{"speed": 1}])


def test_the_repositorys_table_has_the_columns_of_today():
    assert isinstance(results.read(results.REPOSITORY_CSV), list)


def test_only_new_rows_of_a_gpu_are_merged(tmp_path: Path):
    source, target = tmp_path / "a.csv", tmp_path / "b.csv"
    results.append(source, [*rows(KEYS[:1]), *rows(KEYS[1:2], device="cpu")])
    assert results.merge(source, target) == 3
    assert results.merge(source, target) == 0
    assert {row["device"] for row in results.read(target)} == {"cuda"}


def test_another_header_and_a_missing_table_are_refused_in_one_sentence(tmp_path: Path, capsys):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    assert main(["merge", str(tmp_path)]) == 2
    assert "has the columns 'a,b', expected 'date," in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "nowhere"), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"benchmarks: there is no table of results at {tmp_path}/nowhere; give a results.csv")
    assert said.count("\n") == 1


def test_the_table_fits_80_columns_and_cuts_no_figure():
    found = [*rows(), *step_rows(), row(KEYS[0], "batch_norm", 1234567.0)]
    text = report.lines(found)
    assert max(map(len, text)) <= 80
    assert "..." not in "".join(text)
    for case in KEYS:
        assert any(re.match(rf"  {case.problem.name} .* 100  90%", line) for line in text), case.key
    assert text[2].split()[-3:] == ["2.50", "2.50", "2.50"]
    assert any("images/s" in line for line in text)


def test_a_ratio_is_rounded_down_and_a_missing_figure_is_a_dash():
    case = KEYS[0]
    (measured,) = report.measured([row(case, "fused", 100), row(case, "eager", 99.99, wall_us_median="")])
    assert measured.cells()[-3:] == ["0.99", "0.99", "-"]
    assert "CPU" in report.lines([row(case, "fused", 1, device="cpu")])[0]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "kernels").mkdir()
    for name in ("README.md", "kernels/README.md"):
        (tmp_path / name).write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    results.append(tmp_path / results.FILE, [])
    return tmp_path


def test_the_readmes_say_what_the_table_says(checkout: Path):
    csv = checkout / results.FILE
    assert len(report.draw(checkout, csv, check=True)) == 2
    assert "old" in (checkout / "README.md").read_text(), "a check writes nothing"
    report.draw(checkout, csv)
    assert "No GPU has been measured yet" in (checkout / "kernels/README.md").read_text()
    for name in ("README.md", "kernels/README.md"):
        assert set(re.findall(r"^\| `(\w+)` ", (checkout / name).read_text(), re.MULTILINE)) == set(OPS)
    assert report.draw(checkout, csv, check=True) == []

    newer = [{**of, "date": "2026-02-01T00:00:00+00:00", "commit": "feed"} for of in rows()]
    results.append(csv, [*rows(), *newer, *step_rows()])
    assert len(report.draw(checkout, csv)) == 2
    text = (checkout / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "NVIDIA H200, 2026-02-01, commit feed" in text, "the newest run of the chip"
    assert "| `adain` | 90%/90%/90% | 2.50/2.50/2.50 |" in text, "one line per op"
    assert "→" not in text, "every op is measured, so no figure is from a machine without a GPU"
    text = (checkout / "kernels/README.md").read_text()
    assert "| `adain` | stylegan_g_1024 | f32 | nchw | fwd | 100 | 90% | 100 | 2.50 | 2.50 | 2.50 |" in text
    assert (checkout / "docs/benchmarks/NVIDIA-H200.png").stat().st_size > 1000
    assert report.draw(checkout, csv, check=True) == []


def test_measured_rows_take_the_place_of_what_is_known_without_a_gpu_op_by_op(checkout: Path):
    csv = checkout / results.FILE
    results.append(csv, rows([case for case in KEYS if case.op.name == "adain"]))
    report.draw(checkout, csv)
    for name in ("README.md", "kernels/README.md"):
        adain, bias_act = (
            re.findall(rf"^\| `{op}` .*", (checkout / name).read_text(), re.M) for op in ("adain", "bias_act")
        )
        assert "→" not in "".join(adain)
        assert "→" in bias_act[0]


def test_what_is_slower_than_its_bytes_explain_is_named():
    of = {case.op.name: case for case in reversed(KEYS) if case.pass_ == "forward"}
    # 90% of the speed of a copy in device time; within CUDA graphs 10%.
    found = [row(of[name], "fused", 100.0, share_of_copy_graph="0.1") for name in ("bias_act", "power_iteration")]
    (slow,) = report.short(found)
    assert slow.startswith(f"{of['power_iteration'].key}: 10% of a copy, expected 4")  # the weights are read twice
    (slow,) = report.short([row(of["bias_act"], "fused", 200.0)])
    assert slow == f"{of['bias_act'].key}: 45% of a copy, expected 90%"
    assert report.short([row(of["bias_act"], "eager", 200.0)]) == []


def test_the_readmes_of_the_repository_are_drawn_from_its_table():
    assert report.draw(check=True) == [], "python -m benchmarks readme draws them"


def test_a_readme_without_markers_is_refused(checkout: Path):
    (checkout / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"README.md must have <!-- results:begin -->"):
        report.draw(checkout, checkout / results.FILE)


def test_what_lies_within_the_quartiles_did_not_move():
    said, slower = compare(rows(), [*rows(KEYS[1:]), row(KEYS[0], "fused", 100.5)])
    assert said == ["copies took 1.00 times as long (median)", "no time left its quartiles"]
    assert not slower
    # Outside the quartiles of the one run and within the wide ones of the other.
    wide = {f"{mode}_us_{part}": us for mode in ("device", "graph", "wall") for part, us in (("q1", 90), ("q3", 150))}
    for before, after in ((wide, {}), ({}, wide)):
        pair = row(KEYS[0], "fused", 100.0, **before), row(KEYS[0], "fused", 130.0, **after)
        assert compare(*([of] for of in pair)) == (["no time left its quartiles"], False)


def test_changes_are_listed_largest_first_and_lost_cases_too():
    a, b, c = KEYS[:3]
    before, after = rows([a, b, c]), [*rows([a, b]), row(a, "fused", 130.0), row(b, "fused", 50.0)]
    said, slower = compare(before, after)
    assert slower
    assert (
        said[1] == f"{'/'.join((b.op.name, *b.key.split('/')[1:]))}/fused device: 2.00 times as fast, 100.0 to 50.0 us"
    )
    assert f"{a.key}/fused wall: 1.30 times as long, 100.0 to 130.0 us" in said
    assert said[-1] == f"only in the first: {c.key}/fused"
    _, slower = compare(rows([a]), [*rows([a]), row(a, "fused", 50.0), *rows([b])])
    assert not slower


def test_a_change_below_three_percent_is_nothing_and_chips_are_not_compared():
    close = row(KEYS[0], "fused", 102.0)
    assert compare(rows(KEYS[:1]), [*rows(KEYS[:1]), close])[0][1:] == ["no time left its quartiles"]
    with pytest.raises(ValueError, match="different chips"):
        compare(rows(), rows(chip="NVIDIA A100"))

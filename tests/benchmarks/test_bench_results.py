from pathlib import Path

import pytest

from benchmarks import results

_GPU_ROW = {"date": "2030-01-01", "device": "cuda", "chip": "a chip, with a comma", "op": "bias_act", "bytes": 8}


def test_what_was_not_measured_is_an_empty_cell(tmp_path: Path):
    path = tmp_path / "r.csv"
    results.append(path, [_GPU_ROW])
    (row,) = results.read(path)
    assert tuple(row) == results.COLUMNS
    assert row["chip"] == "a chip, with a comma"
    assert row["bytes"] == "8"
    assert row["cold_us_median"] == ""


def test_a_column_the_table_does_not_have_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="colour"):
        results.append(tmp_path / "r.csv", [{"colour": "red"}])


@pytest.mark.parametrize("header", ["date,commit\n", results.header().replace("chip", "gpu"), "no header at all\n"])
def test_another_header_is_refused_and_the_file_left_alone(tmp_path: Path, header: str):
    path = tmp_path / "r.csv"
    path.write_text(header)
    with pytest.raises(ValueError, match="expected 'date,commit,"):
        results.append(path, [_GPU_ROW])
    with pytest.raises(ValueError, match="expected 'date,commit,"):
        results.read(path)
    assert path.read_text() == header


def test_merging_takes_gpu_rows_once_and_cpu_rows_never(tmp_path: Path):
    source, target = tmp_path / "source.csv", tmp_path / "target.csv"
    results.append(source, [_GPU_ROW, {**_GPU_ROW, "device": "cpu"}, {**_GPU_ROW, "device": "rocm"}])
    assert results.merge(source, target) == 2
    assert [row["device"] for row in results.read(target)] == ["cuda", "rocm"]
    assert results.merge(source, target) == 0
    assert len(results.read(target)) == 2


def test_the_repository_has_a_table_with_this_header_and_no_figure_of_a_cpu():
    assert all(row["device"] != "cpu" for row in results.read(results.REPOSITORY_CSV))

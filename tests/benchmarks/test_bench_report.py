"""Tables, pictures and the READMEs, drawn from rows with invented figures that exist in these tests alone."""

import importlib.util
import io
import math
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import plots, readme, report, results, tables
from benchmarks.__main__ import main

# Chosen so that every expected value below can be told by hand: a copy runs at 4 TB/s, 16 MB take 4 µs.
_RUN = {
    "date": "2030-01-02T00:00:00+00:00",
    "commit": "c" * 40,
    "dirty": "no",
    "device": "cuda",
    "chip": "Invented <1>",
    "driver": "1.0",
    "torch": "2.99",
    "triton": "9.9",
}
_SMALL, _LARGE = 16_000_000, 400_000_000


def _row(**cells: object) -> dict[str, str]:
    """A row as ``results.read`` gives it."""
    given = {**_RUN, "dtype": "float32", "layout": "contiguous", "pass": "forward", **cells}
    return {column: str(given.get(column, "")) for column in results.COLUMNS}


def _case(us: dict[str, float], problem: str, count: int, **cells: object) -> list[dict[str, str]]:
    rows = []
    for provider, cold in us.items():
        times = {f"{mode}_us_median": cold for mode in ("cold", "warm", "graph")} | {"wall_us_median": 2 * cold}
        quartiles = {"cold_us_q1": cold, "cold_us_q3": cold, "graph_us_q1": cold, "graph_us_q3": cold}
        shares = {f"share_of_clone_{mode}": us["clone"] / cold for mode in ("cold", "graph") if "clone" in us}
        subject = {"op": "bias_act", "problem": problem, "shape": "1x2x3x4", "provider": provider, "bytes": count}
        rows.append(_row(**{**times, **quartiles, **shares, **subject, **cells}))
    return rows


_LIMITS = [
    _row(op="limit", problem="copy_64mb", provider="clone", gb_per_s=3500),
    _row(op="limit", problem="copy_1gb", provider="clone", gb_per_s=4000),
    _row(op="limit", problem="matmul_8192", provider="eager", operations=2 * 8192**3, warm_us_median=2000),
    _row(op="limit", problem="matmul_8192_tf32", provider="eager", operations=2 * 8192**3, warm_us_median=1000),
    _row(op="limit", problem="empty_kernel", provider="triton", graph_us_median=8, wall_us_median=25),
]
_OPS = [
    *_case({"fused": 125, "eager": 250, "compile": 100, "vendor:a": 500, "clone": 100}, "stylegan_d_1024", _LARGE),
    *_case({"fused": 16, "eager": 40, "vendor:a": 32, "vendor:b": 20, "clone": 8}, "dcgan64_d_8", _SMALL),
    *_case({"fused": 200, "eager": 400, "clone": 160}, "stylegan_d_1024", _LARGE, **{"pass": "backward"}),
]
_STEPS = [
    _row(
        op="wgan_gp_step",
        problem="dcgan64",
        provider=provider,
        wall_us_median=wall,
        launches=launches,
        parts_us=parts,
        **{"pass": "step"},
    )
    for provider, wall, launches, parts in (
        ("fused", 5000, 310, "matrix product=3000 fastgan=1000 idle=500"),
        ("eager", 12500, 1400, "matrix product=3000 unheard of=7000 idle=2000"),
    )
]
_ROWS = [*_LIMITS, *_OPS, *_STEPS]


def _lines(figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """The lines of a panel by what they stand for."""
    return {line.get_gid(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].lines}


def _bars(figure, panel: int = 0) -> dict[str, list[tuple[float, float]]]:
    """The bars of a panel by label, as (begin, end)."""
    return {
        bars.get_label(): [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars]
        for bars in figure.axes[panel].containers
    }


def _blank(rows: list[dict[str, str]], column: str, **where: str) -> list[dict[str, str]]:
    return [{**row, column: ""} if where.items() <= row.items() else row for row in rows]


def test_share_is_that_of_the_copy_and_stands_at_the_bytes_that_must_move():
    figure = plots.share_against_size(_ROWS, "bias_act")
    assert [axes.get_title() for axes in figure.axes] == ["forward, f32 nchw", "backward, f32 nchw"]
    lines = _lines(figure)
    assert lines["fused"] == ([_SMALL, _LARGE], [pytest.approx(0.25), pytest.approx(0.8)])
    assert lines["eager"][1] == [pytest.approx(0.1), pytest.approx(0.4)]
    assert lines["clone"][1] == [pytest.approx(0.5), pytest.approx(1)]
    assert lines["vendor"][1] == [pytest.approx(0.2), pytest.approx(0.2)], "the fastest of the vendors at each size"
    assert _lines(figure, 1)["fused"] == ([_LARGE], [pytest.approx(0.5)])
    assert "clone" in _lines(figure, 1)
    assert "compile" not in _lines(figure, 1)


def test_the_launch_floor_is_the_best_share_that_one_launch_leaves():
    sizes, shares = _lines(plots.share_against_size(_ROWS, "bias_act"))["launch_floor"]
    assert len(sizes) > 100
    for size, share in zip(sizes, shares, strict=True):
        assert share == pytest.approx(min(1, size / 4e12 / 8e-6))
    assert min(shares) < 0.5 < max(shares) == 1


def test_where_no_graph_was_captured_the_launch_floor_is_that_of_launches_in_a_row():
    rows = [{**row, "warm_us_median": "16"} if row["problem"] == "empty_kernel" else row for row in _ROWS]
    assert tables.limits(rows).launch_us == 8
    rows = _blank(rows, "graph_us_median", op="limit")
    sizes, shares = _lines(plots.share_against_size(rows, "bias_act"))["launch_floor"]
    assert shares[0] == pytest.approx(sizes[0] / 4e12 / 16e-6)


@pytest.mark.parametrize("missing", ["copies", "everything"])
def test_without_the_machines_limits_the_share_is_that_of_the_clone_and_no_launch_floor_is_drawn(missing: str):
    rows = [row for row in _ROWS if row["op"] != "limit" or (missing == "copies" and "copy" not in row["problem"])]
    lines = _lines(plots.share_against_size(rows, "bias_act"))
    assert lines["fused"][1] == [pytest.approx(0.5), pytest.approx(0.8)]
    assert {"launch_floor", "clone"}.isdisjoint(lines)


def test_without_an_empty_kernel_there_is_a_bandwidth_floor_and_no_launch_floor():
    lines = _lines(plots.share_against_size(_blank(_ROWS, "graph_us_median", op="limit"), "bias_act"))
    assert "launch_floor" not in lines
    assert lines["bandwidth_floor"][1] == [1, 1]


def test_an_empty_cell_is_a_gap():
    rows = _blank(_ROWS, "cold_us_median", problem="dcgan64_d_8", provider="fused")
    sizes, shares = _lines(plots.share_against_size(rows, "bias_act"))["fused"]
    assert sizes == [_SMALL, _LARGE]
    assert math.isnan(shares[0])
    assert shares[1] == pytest.approx(0.8)
    # compile was not measured on the small problem at all.
    assert [math.isnan(share) for share in _lines(plots.share_against_size(_ROWS, "bias_act"))["compile"][1]] == [1, 0]


def test_each_type_and_layout_has_its_row_of_panels():
    half = [{**row, "dtype": "bfloat16", "layout": "channels_last"} for row in _OPS]
    figure = plots.share_against_size([*_OPS, *half], "bias_act")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[::2] == ["forward, f32 nchw", "forward, bf16 nhwc"]
    only = plots.share_against_size([*_OPS, *half], "bias_act", kinds=[("bfloat16", "channels_last")])
    assert len(only.axes) == 2


def test_a_single_problem_is_drawn():
    figure = plots.share_against_size(_case({"fused": 10, "eager": 20, "clone": 9}, "p", 100), "bias_act")
    assert _lines(figure)["fused"] == ([100], [pytest.approx(0.9)])
    figure = plots.speedups(tables.measured(_case({"fused": 10, "eager": 20}, "p", 100)), title="one")
    assert _bars(figure)["fastgan against eager torch"] == [(1, 2)]


def test_nothing_to_draw_is_no_picture():
    assert plots.share_against_size(_ROWS, "adain") is None
    assert plots.speedups(tables.measured(_case({"fused": 10, "clone": 9}, "p", 100)), title="alone") is None
    assert plots.steps(_OPS) is None


def test_speedups_are_bars_from_one_to_the_ratio_and_leave_gaps():
    figure = plots.speedups([case for case in tables.measured(_ROWS) if case.op == "bias_act"], title="bias_act")
    assert all(axes.get_xscale() == "log" for axes in figure.axes)
    bars = _bars(figure)
    assert bars["fastgan against eager torch"] == [(1, 2), (1, 2.5)]
    assert bars["fastgan against best vendor op"] == [(1, 4), (1, 1.25)]
    slower, missing = bars["fastgan against torch.compile"]
    assert slower == (1, 0.8)
    assert math.isnan(missing[1])
    # Of the second panel, backward, only one problem was measured.
    assert [math.isnan(end) for _, end in _bars(figure, 1)["fastgan against eager torch"]] == [False, True]
    low, high = figure.axes[0].get_xlim()
    assert low < 0.8
    assert high > 4
    assert "cold cache" in figure.get_suptitle()
    assert "wall time" in plots.speedups(tables.measured(_OPS), title="bias_act", mode="wall").get_suptitle()


def test_a_step_is_stacked_from_its_parts_on_one_scale_with_its_launches():
    figure = plots.steps(_ROWS)
    (axes,) = figure.axes
    # In milliseconds; the first bar is fused, the second eager.
    assert _bars(figure) == {
        "fastgan": [(0, 1), (4 - 4, 0)],
        "matrix product": [(1, 4), (0, 3)],
        "unheard of": [(4, 4), (3, 10)],
        "idle": [(4, 4.5), (10, 12)],
    }
    assert [text.get_text().strip() for text in axes.texts] == ["4.5 ms, 310 launches", "12 ms, 1,400 launches"]
    assert axes.get_xlim()[1] > 12


def test_a_provider_without_parts_has_no_bar_and_unmeasured_launches_are_not_told():
    figure = plots.steps(_blank(_blank(_ROWS, "parts_us", provider="eager"), "launches", op="wgan_gp_step"))
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["4.5 ms"]


def test_parts_of_another_form_are_refused():
    for cell in ("convolution", "convolution=", "convolution=1 idle", "=1"):
        with pytest.raises(ValueError, match=f"parts_us is '{cell}'"):
            plots.parse_parts({"parts_us": cell})


def test_the_figures_of_a_case():
    large, small, backward, step = tables.measured(_ROWS)
    assert (large.speedup("eager", "cold"), large.speedup("compile", "cold")) == (2, 0.8)
    assert large.share("fused", "cold") == pytest.approx(0.8)
    assert (large.vendor("cold"), small.vendor("cold"), backward.vendor("cold")) == ("vendor:a", "vendor:b", None)
    assert small.speedup("compile", "cold") is None
    assert step.bytes is None
    assert step.speedup("eager", "wall") == 2.5


def test_limits_are_the_fastest_copy_the_products_and_the_empty_kernel():
    limits = tables.limits(_ROWS)
    assert limits.bandwidth == 4e12
    assert limits.products == {"float32": pytest.approx(549.8e12, rel=1e-3), "tf32": pytest.approx(1099.5e12, rel=1e-3)}
    assert limits.empty_us == {"graph": 8, "wall": 25}
    assert tables.limits(_OPS).lines() == []


def test_key_cases_are_those_of_the_registry_and_whatever_is_not_in_it():
    assert [case.problem for case in tables.key_cases(tables.measured(_ROWS))] == [
        "stylegan_d_1024",
        "stylegan_d_1024",
        "dcgan64",
    ]


def test_the_table_fits_120_columns_and_says_what_was_not_measured():
    lines = tables.text(_ROWS)
    assert max(map(len, lines)) <= 120
    (large,) = (line for line in lines if "stylegan_d_1024" in line and " fwd " in line)
    assert " ".join(large.split()) == "stylegan_d_1024 f32 nchw fwd 125 125 250 80% 2.00 0.80 4.00 2.00"
    (step,) = (line for line in lines if "step" in line and "f32" in line)
    assert " ".join(step.split()) == "dcgan64 f32 nchw step - - 5,000 - 2.50 - - 2.50"
    assert "no case was measured" in tables.text(_LIMITS)


def test_the_longest_names_of_the_registry_fit_120_columns():
    from benchmarks.old_ops import OPS

    rows = [
        row
        for op in OPS
        for problem in op.problems
        for row in _case(
            dict.fromkeys(("fused", "eager", "compile", "vendor:a", "clone"), 12345.6),
            problem.name,
            10**9,
            op=op.name,
            dtype="bfloat16",
            layout="channels_last",
            **{"pass": "double_backward"},
        )
    ]
    assert max(map(len, tables.text(rows))) <= 120


def test_rich_prints_the_same_table_and_a_lost_comparison_in_red():
    console = Console(width=120, record=True, color_system="truecolor", file=io.StringIO())
    console.print(tables.table(_ROWS))
    styled = console.export_text(styles=True, clear=False)
    assert re.search(r"\x1b\[31m *0\.80", styled)
    assert not re.search(r"\x1b\[31m *2\.00", styled)
    plain = " ".join(console.export_text().split())
    for line in tables.text(_OPS):
        assert " ".join(line.split()) in plain


def test_equal_times_are_no_comparison_lost():
    (case,) = tables.measured(_case({"fused": 10, "eager": 10, "compile": 9}, "p", 100))
    lost = [column.heading for column in tables.columns([case], compact=True) if column.slower(case)]
    assert lost == ["compile"]


def test_a_cpus_figures_are_marked_in_the_terminal_too():
    rows = [{**row, "device": "cpu"} for row in _OPS]
    assert tables.text(rows)[0].startswith("Toy size on a CPU")
    assert str(tables.table(rows).title).startswith("Toy size on a CPU")
    assert "CPU" not in "".join(tables.text(_OPS))


@pytest.mark.parametrize(
    ("times", "written"), [(0.0123, "0.0123"), (0.999, "0.99"), (1.0, "1.00"), (9.999, "9.99"), (12.39, "12.3")]
)
def test_a_ratio_is_never_rounded_up(times: float, written: str):
    assert tables.times_text(times) == written


def test_the_report_is_one_file_with_everything_in_it(tmp_path: Path):
    path = report.write_report(_ROWS, tmp_path / "out", notes=["a < b & c"], machine={"clocks": "1 Hz"})
    page = path.read_text()
    for said in ("Invented &lt;1&gt;", "c" * 40, "2030-01-02", "2.99", "1 Hz", "fastest copy: 4,000 GB/s"):
        assert said in page
    assert "<li>a &lt; b &amp; c</li>" in page
    assert page.index("fastest copy") < page.index("stylegan_d_1024") < page.index("<img") < page.index("a &lt; b")
    assert '<td class="slower">0.80</td>' in page
    assert '<td class="slower">2.00</td>' not in page
    assert 'class="warning"' not in page
    # Nothing is fetched from anywhere, and nothing runs.
    sources = re.findall(r'(?:src|href|url|action)\s*[=(]\s*"?([^">)]{0,22})', page)
    assert set(sources) == {"data:image/png;base64,"}
    assert not re.search(r"https?:|<script|<link|@import", page)
    drawn = {file.name for file in path.parent.glob("*.png")}
    assert drawn == {
        "bias_act-share.png",
        "bias_act-speedup.png",
        "wgan_gp_step-speedup.png",
        "wgan_gp_step-breakdown.png",
    }
    assert len(sources) == len(drawn)


def test_no_cell_of_the_report_is_a_zero_that_was_not_measured(tmp_path: Path):
    page = report.write_report(_blank(_OPS, "cold_us_median", provider="fused"), tmp_path).read_text()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells
    assert {"0", "0.00", "nan", "None", "inf", ""}.isdisjoint(cells)


@pytest.mark.parametrize(
    ("device", "said"), [("cpu", "Toy size on a CPU"), ("prediction", "Not measured on a GPU"), ("", "Not measured")]
)
def test_what_no_gpu_gave_is_marked_in_red_on_the_page_and_on_each_picture(tmp_path: Path, device: str, said: str):
    rows = [{**row, "device": device} for row in _ROWS]
    page = report.write_report(rows, tmp_path).read_text()
    assert re.search(rf'<body>\s*<p class="warning">{said}', page)
    for figure in report.pictures(rows).values():
        assert said in figure.get_suptitle()


def test_several_runs_or_none_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="2 runs, expected those of one"):
        report.write_report([*_ROWS, {**_ROWS[0], "commit": "d"}], tmp_path)
    with pytest.raises(ValueError, match="0 runs"):
        report.write_report([], tmp_path)


def test_without_matplotlib_the_report_says_so_and_readmes_are_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    page = report.write_report(_OPS, tmp_path).read_text()
    assert "matplotlib is not installed" in page
    assert "<img" not in page
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pictures need matplotlib: pip install"):
        plots.steps(_STEPS)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the three READMEs, nothing between their markers."""
    for name in ("README.md", "benchmarks/README.md", "kernels/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"before\n{readme.BEGIN}\nstale\n{readme.END}\nafter\n")
    return tmp_path


def _table(path: Path, rows: list[dict[str, str]]) -> Path:
    path.unlink(missing_ok=True)
    results.append(path, rows)
    return path


def test_the_readmes_of_this_repository_say_what_its_table_says():
    assert readme.differences() == []
    assert main(["readme", "--check"]) == 0


def test_an_empty_table_is_no_figure_and_the_command_that_fills_it(checkout: Path):
    csv = _table(checkout / "r.csv", [])
    readme.write(checkout, csv)
    text = (checkout / "README.md").read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\nNo GPU has been measured yet")
    assert text.endswith(f"\n{readme.END}\nafter\n")
    assert "python -m benchmarks evidence --out" in text
    assert not (checkout / readme.PICTURES).exists()
    assert readme.differences(checkout, csv) == []


def test_the_readme_is_drawn_from_the_newest_run_of_each_chip_and_never_from_a_cpu(checkout: Path):
    older = [{**row, "date": "2029-12-31T00:00:00+00:00", "commit": "0ld" * 13} for row in _ROWS]
    other = [{**row, "chip": "Other chip", "date": "2029-01-01T00:00:00+00:00"} for row in _OPS]
    toy = [{**row, "device": "cpu", "chip": "toaster", "date": "2040-01-01T00:00:00+00:00"} for row in _ROWS]
    csv = _table(checkout / "r.csv", [*_ROWS, *older, *other, *toy])
    readme.write(checkout, csv)
    text = (checkout / "README.md").read_text()
    assert "0ld" not in text
    assert "toaster" not in text
    assert text.index("Invented <1>") < text.index("Other chip")
    assert "commit `cccccccccccc`;" in text
    assert "| `bias_act` | 80% | 80% | - | 2.00 to 2.50 | 0.80 |" in text, "only the large problem counts for shares"
    assert "| `wgan_gp_step` | dcgan64 | float32 | step | 5 | - | 12.5 | - | 2.50 | - |" in text
    assert "stale" not in text
    # 95% forward, 90% backward, and no slower than torch.compile in a graph are promised.
    assert "share of a clone, cold cache: 0.80, wanted 0.95" in text
    for name in ("README.md", "benchmarks/README.md", "kernels/README.md"):
        path = checkout / name
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text()):
            assert (path.parent / picture).resolve().is_file()
    assert readme.differences(checkout, csv) == []


def test_the_check_finds_a_changed_cell_text_or_picture(checkout: Path):
    csv = _table(checkout / "r.csv", _ROWS)
    readme.write(checkout, csv)
    assert readme.write(checkout, csv) == []
    pictures = sorted((checkout / readme.PICTURES).glob("*.png"))
    assert len(pictures) == 3

    changed = [{**row, "cold_us_median": "126"} if row["cold_us_median"] == "125" else row for row in _ROWS]
    found = readme.differences(checkout, _table(csv, changed))
    assert sum("is not what" in line for line in found) == 2, found
    assert sum("of other rows" in line for line in found) == 3, found

    csv = _table(csv, _ROWS)
    pictures[0].unlink()
    (checkout / readme.PICTURES / "left-over.png").write_bytes(b"")
    readme_text = (checkout / "README.md").read_text()
    (checkout / "README.md").write_text(readme_text.replace("2.50", "3.50"))
    assert len(readme.differences(checkout, csv)) == 3
    assert len(readme.write(checkout, csv)) == 3
    assert readme.differences(checkout, csv) == []
    assert (checkout / "README.md").read_text() == readme_text


@pytest.mark.parametrize("text", ["", readme.BEGIN, readme.END + readme.BEGIN, 2 * (readme.BEGIN + readme.END)])
def test_a_readme_without_its_markers_is_refused(checkout: Path, text: str):
    (checkout / "README.md").write_text(text)
    with pytest.raises(ValueError, match=r"README\.md must have one"):
        readme.write(checkout, _table(checkout / "r.csv", []))


def test_the_command_ends_with_one_where_a_readme_differs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    csv = _table(checkout / "r.csv", [])
    differences, write = readme.differences, readme.write
    monkeypatch.setattr(readme, "differences", lambda: differences(checkout, csv))
    monkeypatch.setattr(readme, "write", lambda: write(checkout, csv))
    assert main(["readme", "--check"]) == 1
    assert "kernels/README.md is not what" in capsys.readouterr().out
    assert main(["readme"]) == 0
    assert main(["readme", "--check"]) == 0
    (checkout / "README.md").write_text("")
    assert main(["readme"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: README.md must have")

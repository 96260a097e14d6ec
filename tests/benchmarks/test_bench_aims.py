"""What is promised is judged as it is written, and only where it was measured."""

import pytest

from benchmarks import results
from benchmarks.aims import judge

_MB = 2**20


def _row(provider: str = "fused", **cells: object) -> dict[str, str]:
    """A row as it is read from a table; its figures are invented."""
    row = dict.fromkeys(results.COLUMNS, "")
    row |= {
        "device": "cuda", "op": "bias_act", "problem": "p", "shape": "4x16x1024x1024", "dtype": "float32",
        "layout": "contiguous", "pass": "forward", "provider": provider, "bytes": str(64 * _MB),
    }  # fmt: skip
    return row | {name: str(value) for name, value in cells.items()}


def _time(mode: str, median: float, spread: float = 0.0) -> dict[str, float]:
    return {f"{mode}_us_q1": median - spread, f"{mode}_us_median": median, f"{mode}_us_q3": median + spread}


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ({}, 0.95),
        ({"pass": "backward"}, 0.9),
        ({"op": "adain", "shape": "4x128x128x128"}, 0.9),
        ({"op": "style_epilogue", "shape": "4x128x128x129"}, 0.8),
        ({"op": "adain", "pass": "backward"}, 0.85),
        ({"pass": "double_backward"}, None),
        ({"bytes": 64 * _MB - 1}, None),
        ({"op": "upfirdn2d"}, None),
        ({"device": "cpu"}, None),
        ({"share_of_clone_cold": ""}, None),
    ],
)
def test_the_share_of_a_clone_that_is_wanted(cells: dict[str, object], wanted: float | None):
    verdicts = judge([_row(**({"share_of_clone_cold": 0.9} | cells))])
    assert [v.wanted for v in verdicts] == ([] if wanted is None else [wanted])
    assert all(v.met == (wanted <= 0.9) for v in verdicts)


@pytest.mark.parametrize("rival", ["eager", "compile"])
@pytest.mark.parametrize(("fused", "spread", "met"), [(9.0, 0, True), (10.4, 0.3, True), (10.4, 0.1, False)])
def test_no_rival_may_be_faster_in_a_graph_beyond_the_noise_of_both(rival: str, fused: float, spread: float, met: bool):
    (verdict,) = judge([_row(**_time("graph", fused, spread)), _row(rival, **_time("graph", 10.0, spread))])
    assert verdict.met == met
    assert verdict.measured == pytest.approx(10 / fused)
    assert rival in str(verdict)


@pytest.mark.parametrize(("device_time", "judged"), [(95.0, True), (50.0, False)])
def test_wall_time_is_judged_where_the_device_and_not_the_launches_decide(device_time: float, judged: bool):
    eager = _row("eager", **_time("graph", device_time), **_time("wall", 100.0))
    verdicts = judge([_row(**_time("graph", 10.0), **_time("wall", 120.0)), eager])
    of_wall = [v for v in verdicts if "wall" in v.aim]
    assert [v.met for v in of_wall] == ([False] if judged else [])


@pytest.mark.parametrize(
    ("op", "times", "met"),
    [
        ("spectral_norms", 10.5, True), ("spectral_norms", 9.5, False),
        ("wgan_gp_step", 2.1, True), ("wgan_gp_step", 1.9, False),
    ],
)  # fmt: skip
def test_whole_steps_are_so_many_times_faster_than_eager(op: str, times: float, met: bool):
    rows = [_row(op=op, bytes="", **_time("wall", 10.0)), _row("eager", op=op, bytes="", **_time("wall", 10 * times))]
    (verdict,) = judge(rows)
    assert (verdict.met, verdict.measured) == (met, pytest.approx(times))


def test_what_was_not_measured_is_not_judged():
    assert judge([_row("eager", **_time("wall", 1.0)), _row(op="wgan_gp_step")]) == []
    assert judge([_row(op="wgan_gp_step"), _row("eager", op="wgan_gp_step", **_time("wall", 1.0))]) == []

"""Predictions: the launches are those really made, the bytes those of the tensors, and nothing passes for a result."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import counted, prediction, results
from benchmarks.__main__ import main
from benchmarks.chips import CHIPS, Chip
from benchmarks.old_ops import OPS
from benchmarks.passes import bind, draw
from benchmarks.prediction import Activity, Row, Span, predicted_seconds
from benchmarks.registry import Case, Problem, cases
from fastgan_kernels.inspection.traffic import count_traffic
from tests.kernels.inspection.uninterpreted import run_python

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="predictions are for machines without a GPU")

_MB = 2**20
_TOY = [case for case in cases(OPS, toy=True) if case.dtype_name in ("float32", "bfloat16")]

# Outside the interpreter, which the tests run in: the launches of both providers with the bytes given to each, by case,
# and the tables that follow from a table of compiled kernels.
_OUTSIDE = """
import json
import sys
from pathlib import Path
from rich.console import Console
from benchmarks.chips import CHIPS
from benchmarks.old_ops import OPS
from benchmarks.prediction import activities, prediction_rows, render
from benchmarks.registry import cases

REAL = ("bias_act", "upfirdn2d", "power_iteration")

def told(function, case):
    return [(launch.name, launch.bytes) for launch in activities(function, case, "sm_90")]

toy = [case for case in cases(OPS, toy=True) if case.dtype_name in ("float32", "bfloat16")]
real = [case for case in cases(OPS) if case.op.name in REAL and case.dtype_name == "float32"]
launches = {c.key: {"fused": told(c.op.fused, c), "eager": told(c.op.reference, c)} for c in toy + real}

chosen = [case for case in cases(OPS) if case.op.name == "bias_act"][:1]
console = Console(width=120)
with console.capture() as tables:
    console.print(*render(prediction_rows(chosen, CHIPS["H100"], counted=False, compiled=Path(sys.argv[1]))))
print(json.dumps({"launches": launches, "tables": tables.get()}))
"""


@pytest.fixture(scope="module")
def doctored() -> dict[str, str]:
    """A line of the compiled table in which a kernel spills, which it does not."""
    header, line = next(
        (header, line)
        for _, header, *lines in [prediction.COMPILED.read_text().splitlines()]
        for line in lines
        if line.startswith("bias_act,") and ",sm_90," in line
    )
    (row,) = csv.DictReader([header, line])
    return row | {"registers": "254", "spilled_registers": "17", "stack_bytes": "68"}


@pytest.fixture(scope="module")
def outside(tmp_path_factory, doctored) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("doctored") / "compiled.csv"
    with path.open("w", newline="") as file:
        file.write("# triton 9.8.7\n")
        writer = csv.DictWriter(file, list(doctored), lineterminator="\n")
        writer.writeheader()
        writer.writerow(doctored)
    run = run_python("-c", _OUTSIDE, str(path))
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def predicted_launches(outside) -> dict[str, dict[str, list[tuple[str, int]]]]:
    return outside["launches"]


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> tuple[str, list[dict[str, str]]]:
    """What the command prints and writes for one op, traffic counted."""
    out = tmp_path_factory.mktemp("predict") / "prediction.csv"
    run = run_python("-m", "benchmarks", "predict", "bias_act", "--chip", "A100", "--out", str(out))
    assert run.returncode == 0, run.stderr[-2000:]
    with out.open() as file:
        return run.stdout, list(csv.DictReader(file))


@pytest.mark.parametrize("case", _TOY, ids=lambda case: case.key)
def test_predicted_launches_are_those_really_made(case: Case, predicted_launches):
    """Kernels of ours and operators of torch between them, in order, of fused and eager."""
    predicted = {
        provider: [name if name.startswith("aten.") else name.rsplit(".", 1)[-1] for name, _ in launches]
        for provider, launches in predicted_launches[case.key].items()
    }
    fused = counted.count(case)
    with count_traffic() as eager:
        call = bind(case.op.reference, case.op, case.pass_, draw(case, torch.device("cpu")))
        before = len(eager.launches)
        call()
    made = {"fused": fused.launches, "eager": eager.launches[before:]}
    names = {provider: [launch.kernel for launch in launches] for provider, launches in made.items()}
    assert names["fused"] == predicted["fused"]
    assert names["fused"]
    if (
        case.op.name != "minibatch_discrimination"
    ):  # zeros that torch knows of without a launch: their end differs on meta
        assert names["eager"] == predicted["eager"]


@pytest.mark.parametrize(
    ("key", "provider", "expected"),
    [
        # 4 x 16 x 1024 x 1024 float32 is 256 MB. Forward: x, y and a bias of 16 floats; of eager a sum between them.
        ("bias_act/stylegan_d_1024/float32/contiguous/forward", "fused", [512 * _MB + 64]),
        ("bias_act/stylegan_d_1024/float32/contiguous/forward", "eager", [512 * _MB + 64, 512 * _MB]),
        # h, y and the gradient of dy.
        ("bias_act/stylegan_d_1024/float32/contiguous/double_backward", "fused", [768 * _MB]),
        # Padded to 1027 pixels; one window, of 16 floats, for all channels. x is not read: no gradient of the window.
        (
            "upfirdn2d/stylegan_g_1024/float32/contiguous/backward",
            "eager",
            [256 * _MB + 4 * 16 * 4 * 1027**2 + 64, 256 * _MB + 4 * 16 * 4 * 1027**2],
        ),
    ],
)
def test_bytes_of_known_launches(key: str, provider: str, expected: list[int], predicted_launches):
    assert [size for _, size in predicted_launches[key][provider]] == expected


_CHIP = Chip("toy chip", "sm_90", 1e9, "this test", 1e12, cache_bytes=1000, copy_share=0.5, launch_seconds=1e-6)


def _launch(*spans: tuple[int, int, int]) -> Activity:
    return Activity("launch", tuple(Span(storage, start, end, end - start) for storage, start, end in spans))


def test_the_tensors_behind_a_table_of_pointers_are_counted(predicted_launches):
    times_v, *_ = predicted_launches["power_iteration/sngan28_d/float32/contiguous/forward"]["fused"]
    weights = 4 * (16 * (64 * 1 + 128 * 64 + 256 * 128 + 512 * 256) + 512)
    assert weights < times_v[1] < 1.02 * weights


@pytest.mark.parametrize(
    ("launches", "expected"),
    [
        ([_launch((1, 0, 100))], 1e-6),  # 0.2 us of bytes at 0.5 GB/s, less than a launch
        ([_launch((1, 0, 4000))], 8e-6),
        ([_launch((1, 0, 4000)), _launch((1, 0, 4000))], 16e-6),  # larger than the cache
        ([_launch((1, 0, 900)), _launch((1, 0, 900))], 1.8e-6 + 1e-6),  # found in the cache
        ([_launch((1, 0, 900)), _launch((1, 100, 800))], 1.8e-6 + 1e-6),  # so is a part
        ([_launch((1, 100, 800)), _launch((1, 0, 900))], 1.4e-6 + 1.8e-6),  # but not the whole after a part
        ([_launch((1, 0, 900)), _launch((2, 0, 900))], 3.6e-6),  # another tensor
        ([_launch((1, 0, 900)), _launch((2, 0, 600)), _launch((1, 0, 900))], 1.8e-6 + 1.2e-6 + 1.8e-6),  # driven out
        ([_launch((1, 0, 300)), _launch((2, 0, 600)), _launch((1, 0, 300))], 1e-6 + 1.2e-6 + 1e-6),  # both fit
    ],
)
def test_time_is_of_bytes_or_launches_and_what_is_in_the_cache_is_free(launches: list[Activity], expected: float):
    assert predicted_seconds(launches, _CHIP) == pytest.approx(expected)


def test_operations_take_their_time_where_bytes_do_not():
    assert predicted_seconds([_launch((1, 0, 100))], _CHIP, operations=10**6) == pytest.approx(1e-6)
    assert predicted_seconds([_launch((1, 0, 100))], _CHIP, operations=10**8) == pytest.approx(1e-4)


def test_a_slower_chip_predicts_longer():
    launches = [_launch((1, 0, 2**30), (2, 0, 2**30))]
    seconds = [predicted_seconds(launches, CHIPS[name]) for name in ("H200", "H100", "A100")]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == len(seconds)
    slower = replace(_CHIP, launch_seconds=3e-6)
    assert predicted_seconds([_launch((1, 0, 1))], slower) > predicted_seconds([_launch((1, 0, 1))], _CHIP)


def test_a_chip_says_what_is_assumed_of_it_and_where_it_is_from():
    for chip in CHIPS.values():
        assert "datasheet" in chip.assumptions
        assert "not measured" in chip.assumptions
        assert (chip.copy_share is None) == ("lower bounds" in chip.assumptions)


def test_the_command_counts_and_marks_every_row(command):
    _, rows = command
    assert {row["kind"] for row in rows} == {"prediction"}
    assert all("Nothing was timed" in row["assumptions"] for row in rows)
    by_key = {(row["problem"], row["pass"]): row for row in rows}
    forward = by_key["stylegan_d_1024", "forward"]
    # A100: 512 MB at 2.039 TB/s.
    assert float(forward["fused_predicted_us"]) == pytest.approx((512 * _MB + 64) / 2.039e12 * 1e6)
    assert float(forward["predicted_eager_over_fused"]) == pytest.approx(2, rel=1e-3)
    # x is read once and y written once, whatever the shape that was counted; the bias again by each program.
    assert 1 <= float(forward["counted_over_floor"]) < 1.05
    assert int(forward["counted_stored"]) == int(forward["counted_bytes"]) // 2 // 32 * 32
    assert forward["compiled_target"] == "sm_80"
    assert int(forward["compiled_registers"]) > 0


def test_the_counted_shape_launches_what_the_first_problem_does(command):
    _, rows = command
    (shape,) = {row["counted_shape"] for row in rows}
    small = tuple(map(int, shape.split("x")))
    (op,) = (op for op in OPS if op.name == "bias_act")
    for row in rows:
        if row["problem"] == op.problems[0].name:
            case = Case(op, Problem("counted", small, ""), "float32", "contiguous", row["pass"])
            launched = [name.rsplit(".", 1)[-1] for name in row["fused_kernels"].split()]
            assert [launch.kernel for launch in counted.count(case).launches] == launched


_ROW = Row(
    kind="prediction",
    chip="H200",
    assumptions=CHIPS["H200"].assumptions,
    op="minibatch_discrimination",
    problem="stylegan_d_4_small",
    shape="4x512x1024x1024",
    dtype="bfloat16",
    layout="channels_last",
    pass_="double_backward",
    bytes=2**31,
    predicted_floor_us=12345.6,
    fused_launches=123,
    fused_kernels="a b",
    fused_tensor_bytes=2**32,
    fused_tensors_over_floor=12.34,
    fused_predicted_us=12345.6,
    eager_launches=123,
    eager_tensor_bytes=2**34,
    eager_tensors_over_floor=12.34,
    eager_predicted_us=12345.6,
    predicted_eager_over_fused=12.34,
    counted_shape="128x1024x128x128",
    counted_bytes=2**20,
    counted_loaded=2**20,
    counted_stored=2**20,
    counted_over_floor=12.34,
    compiled_by="triton 3.7.1",
    compiled_target="gfx942",
    compiled_kernels=12,
    compiled_variants=123,
    compiled_registers=255,
    compiled_spilled_registers=0,
    compiled_stack_bytes=1024,
    compiled_shared_bytes=65536,
    compiled_narrowest_access=2,
    compiled_widest_access=16,
    compiled_spills="minibatch_discrimination._some_kernel_with_a_name:12",
)


def _text(table) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_every_table_says_prediction_and_fits_the_terminal(command):
    tables = prediction.render([_ROW, replace(_ROW, chip="H100"), replace(_ROW, op="adain", counted_shape=None)])
    texts = [_text(table) for table in tables]
    assert len(texts) == 5  # times of three changes of the chip, traffic, compiled
    for text in texts:
        assert "prediction" in text.lower()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 120
    printed, _ = command
    assert printed.count("PREDICTION") == 3
    assert max(map(len, printed.splitlines())) <= 120


def test_measured_results_are_not_written_to(tmp_path: Path, capsys):
    assert "prediction" not in results.REPOSITORY_CSV.read_text()
    taken = tmp_path / "results.csv"
    shutil.copy(results.REPOSITORY_CSV, taken)
    before = taken.read_bytes()
    with pytest.raises(ValueError, match="holds something else than predictions"):
        prediction.write([_ROW], taken)
    assert main(["predict", "bias_act", "--quick", "--out", str(taken)]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "holds something else than predictions" in said
    assert taken.read_bytes() == before
    with pytest.raises(ValueError, match="has the columns"):
        results.read(_written(tmp_path / "prediction.csv"))


def _written(path: Path) -> Path:
    prediction.write([_ROW], path)
    prediction.write([_ROW], path)  # in place of the first
    assert len(path.read_text().splitlines()) == 2
    return path


@pytest.mark.parametrize(
    ("arguments", "said"), [(("no_op",), "no op is called 'no_op'"), (("--chip", "B9"), "no chip")]
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], said: str, capsys):
    assert main(["predict", *arguments]) == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    assert said in told
    assert len(told.splitlines()) == 1


def test_an_interpreted_process_is_refused():
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        prediction.prediction_rows(cases(OPS)[:1], CHIPS["H100"], counted=False)


def test_a_kernel_that_spilled_is_shown(outside, doctored, command):
    words = " ".join(outside["tables"].split())
    assert f"Spilled registers: {doctored['kernel']}:17" in words
    assert "what triton 9.8.7 makes of the kernels for sm_90" in words
    assert f"bias_act 1 1 254 17 68 {doctored['shared_bytes']} " in words
    printed, _ = command
    assert "Spilled registers: none" in " ".join(printed.split())

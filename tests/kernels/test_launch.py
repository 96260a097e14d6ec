"""Kept launches, against Triton's own over a stub of CUDA's driver. The child process takes 8 CPU seconds, the first
time, when it compiles all kernels, 20."""

import json

import pytest

from benchmarks.static.host_cost import run_over_stub

# Python functions that a call runs, autograd's included, with Python 3.11; each costs 0.1 us and more. What goes beyond
# is either a check or a decision that was made before, and belongs to what is kept.
MOST_PYTHON_CALLS = {
    "bias_act/forward": 26,
    "bias_act/backward": 56,
    "adain/forward": 31,
    "adain/backward": 60,
    "adain/double_backward": 82,
    "norm_act/forward": 36,
    "norm_act/backward": 67,
    "style_epilogue/forward": 41,
    "style_epilogue/backward": 91,
    "8 spectral norms/forward": 95,
    "8 spectral norms/backward": 195,
}
HANDLE = 8  # where a record has the kernel's handle; the arguments follow


@pytest.fixture(scope="module")
def found() -> tuple[dict, dict]:
    return tuple(json.loads(run_over_stub("-m", "tests.kernels.over_stub")))


def test_a_kept_launch_passes_what_triton_passes(found: tuple[dict, dict]):
    """Grid, block, stream, kernel and arguments."""
    for case in ("aligned", "misaligned", "another type", "absent", "another constant", "device"):
        first, *others = found[0][case]
        assert first[0] == 1, f"{case}: the first launch is Triton's, which compiles"
        assert others == [[0, *first[1:]]] * 2, case


def test_a_kernel_is_kept_for_each_type_alignment_and_device(found: tuple[dict, dict]):
    records = found[0]
    cases = ("aligned", "misaligned", "another type", "absent", "another constant", "device")
    assert len({records[case][-1][HANDLE] for case in cases}) == len(cases)
    assert {record[HANDLE] for record in records["other memory"]} == {records["aligned"][0][HANDLE]}
    assert not any(record[0] for record in records["other memory"])


def test_a_kept_launch_runs_on_the_current_stream(found: tuple[dict, dict]):
    assert found[0]["aligned"][0][7] == 0
    assert found[0]["stream"][0][:1] == [0]
    assert found[0]["stream"][0][7] == 5


def test_hooks_of_profilers_are_called(found: tuple[dict, dict]):
    assert found[0]["hooked"] == ["_forward_kernel"] * 2
    assert [record[0] for record in found[0]["observed"]] == [1, 1]
    assert [record[0] for record in found[0]["no longer observed"]] == [0]


def test_a_kernel_for_which_triton_allocates_memory_is_launched_by_triton(found: tuple[dict, dict]):
    assert [record[0] for record in found[0]["instrumented"]] == [1, 1, 1]


def test_every_launch_of_every_op_is_kept(found: tuple[dict, dict]):
    """Triton binds and looks up none anew."""
    assert {case: by_triton for case, (_, by_triton, _) in found[1].items() if by_triton} == {}


@pytest.mark.parametrize("case", MOST_PYTHON_CALLS)
def test_a_call_decides_nothing_twice(found: tuple[dict, dict], case: str):
    assert found[1][case][2] <= MOST_PYTHON_CALLS[case] * 1.1  # other versions of Python and torch call some more

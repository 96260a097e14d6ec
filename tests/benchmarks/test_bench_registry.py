"""The arithmetic of the floors, and the order in which a cut loses the least."""

from dataclasses import replace

import pytest
import torch

from benchmarks.aims import BOUND_BY_BANDWIDTH, LARGE_BYTES
from benchmarks.old_ops import OPS
from benchmarks.passes import bind, draw
from benchmarks.registry import DTYPES, LAYOUTS, PASSES, Case, cases

_BY_NAME = {op.name: op for op in OPS}
_MB = 2**20


@pytest.mark.parametrize(
    ("op", "problem", "dtype", "pass_", "expected"),
    [
        # 4 x 16 x 1024 x 1024 float32 is 256 MB: read x, write y, and a bias of 16 floats.
        ("bias_act", "stylegan_d_1024", "float32", "forward", 512 * _MB + 64),
        ("bias_act", "stylegan_d_1024", "float32", "backward", 768 * _MB + 64),
        ("bias_act", "stylegan_d_1024", "bfloat16", "double_backward", 384 * _MB),
        # 8 x 512 x 32 x 32 float16 is 8 MB; a style is 8 x 512 x 2 bytes = 8 KB.
        ("adain", "stylegan_g_32", "float16", "forward", 16 * _MB + 2 * 8192),
        ("adain", "stylegan_g_32", "float16", "backward", 24 * _MB + 3 * 8192),
        ("adain", "stylegan_g_32", "float16", "double_backward", 40 * _MB + 4 * 8192),
        # 16 x 3 x 1024 x 1024 bfloat16 is 96 MB; 16 norms, and for interpolate 16 shares, of 2 bytes.
        ("gradient_norms", "stylegan_d_1024", "bfloat16", "forward", 96 * _MB + 32),
        ("gradient_penalty", "stylegan_d_1024", "bfloat16", "backward", 192 * _MB + 34),
        ("interpolate", "stylegan_d_1024", "bfloat16", "forward", 288 * _MB + 32),
    ],
)
def test_bytes_of_known_problems(op: str, problem: str, dtype: str, pass_: str, expected: int):
    (found,) = (p for p in _BY_NAME[op].problems if p.name == problem)
    assert Case(_BY_NAME[op], found, dtype, "contiguous", pass_).bytes == expected


@pytest.mark.parametrize("case", cases(OPS, toy=True), ids=lambda case: case.key)
def test_written_bytes_are_those_of_the_outputs(case: Case):
    """What the reference returns must be counted, all of it and nothing else."""
    # In float32 the reference converts nothing: a gradient that is the incoming one itself is seen as such.
    operands = draw(replace(case, dtype_name="float32"), torch.device("cpu"))
    outputs = bind(case.op.reference, case.op, case.pass_, operands)()
    given = {dy.data_ptr() for dy in operands.dys}
    assert case.work.writes == sum(y.numel() for y in outputs if y.data_ptr() not in given)


def test_every_combination_is_there_once():
    listed = cases(OPS)
    expected = sum(len(op.problems) * len(op.passes) for op in OPS) * len(DTYPES) * len(LAYOUTS)
    assert len({case.key for case in listed}) == len(listed) == expected


def test_what_matters_comes_first_and_the_ops_take_turns():
    listed = cases(OPS)
    ranks = [case.rank for case in listed]
    assert ranks == sorted(ranks)
    assert [case.compiled for case in listed] == [rank == 0 for rank in ranks]
    # A cut after any number of cases leaves each op its share: where cases of a rank are lost, no other op had more.
    for cut in range(len(PASSES) * len(OPS), len(listed), 7):
        rank = listed[cut - 1].rank
        counts = {op.name: sum(case.op is op and case.rank == rank for case in listed[:cut]) for op in OPS}
        turns = {op.name: counts[op.name] / len(op.passes) for op in OPS}
        lost = {case.op.name for case in listed[cut:] if case.rank == rank}
        assert all(max(turns.values()) - turns[name] <= 1 for name in lost)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_sizes_come_from_models_and_the_large_bar_can_be_read(op):
    assert all(problem.model for problem in op.problems)
    # The aims for bandwidth speak of 64 MB and more.
    if op.name in BOUND_BY_BANDWIDTH:
        of_problems = [Case(op, problem, "bfloat16", "contiguous", "forward").bytes for problem in op.problems]
        assert max(of_problems) >= LARGE_BYTES


def test_the_channels_last_layout_reaches_the_op():
    (case,) = (c for c in cases(OPS, toy=True) if c.key == "bias_act/toy_odd/bfloat16/channels_last/backward")
    operands = draw(case, torch.device("cpu"))
    for tensor in (operands.inputs[0], operands.dys[0], operands.hs[0]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()

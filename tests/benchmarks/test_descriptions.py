"""What the descriptions of the ops say of bytes and of cases."""

from collections import Counter

import pytest
import torch

from benchmarks.cases import Case, bind, cases, draw, implementations
from benchmarks.op import BF16, F32, F64, PASSES, Problem, flat, tensors_of
from benchmarks.ops import OPS

TOY = [case for case in cases(toy=True) if case.layout == "contiguous"]

# Of x [2, 3, 4, 5] (minibatch_discrimination [2, 3, 4], weights 2x3x4x5): elements read and written, by hand.
X, PLANES, CHANNELS, SAMPLES, MAP = 120, 6, 3, 2, 40
MINIMUM = {
    "adain": (2 * X + 2 * PLANES, 3 * X + 3 * PLANES, 5 * X + 4 * PLANES),
    "bias_act": (2 * X + CHANNELS, 3 * X + CHANNELS, 3 * X),
    "gradient_norms": (X + SAMPLES, 2 * X + 2 * SAMPLES, 3 * X + 3 * SAMPLES),
    "gradient_penalty": (X + 1, 2 * X + 1, 3 * X + 2),
    "interpolate": (3 * X + SAMPLES, 3 * X + SAMPLES, 3 * X + SAMPLES),
    "minibatch_discrimination": (24 + 6, 2 * 24 + 6, 3 * 24 + 2 * 6),
    "minibatch_stddev": (2 * X + MAP, 3 * X + MAP, 4 * X + MAP),
    # The gradient of x is the incoming one, which nobody writes.
    "noise_injection": (2 * X + CHANNELS + MAP, X + MAP + CHANNELS),
    "pixel_norm": (2 * X, 3 * X, 5 * X),
    # W, u [2], v [60] -> sigma, u, v.
    "power_iteration": (X + 62 + 1 + 62,),
    "spectral_normalize": (2 * X + 62, 3 * X + 62, 5 * X + 62),
    "style_epilogue": (2 * X + 2 * PLANES + MAP + 2 * CHANNELS, 3 * X + 3 * PLANES + MAP + 4 * CHANNELS),
    "upfirdn2d": (2 * X + 16, 2 * X, 2 * X),
}


@pytest.mark.parametrize("name", MINIMUM)
def test_minimum_bytes_are_those_counted_by_hand(name: str):
    op = OPS[name]
    shape = (2, 3, 4) if name == "minibatch_discrimination" else (2, 3, 4, 5)
    found = tuple(op.minimum_bytes(shape, F32, pass_) for pass_ in op.passes)
    assert found == tuple(4 * elements for elements in MINIMUM[name])
    assert op.minimum_bytes(shape, BF16) * 2 == found[0]


@pytest.mark.parametrize("case", TOY, ids=lambda case: case.key)
def test_the_gradients_that_a_pass_is_said_to_write_are_those_that_mathematics_makes_not_zero(case: Case):
    """Of the reference in float64: as many as the description names, none of them zero, and no other that is not."""
    torch.manual_seed(0)
    given = draw(case, torch.device("cpu")).to(F64)
    outputs = bind(case.op.reference, case, given)()
    assert all(y.abs().max() > 0 for y in outputs)
    if case.pass_ != "double_backward":
        return
    operands, dys, hs = given
    named = [(name, t) for name, t in [*flat(operands), *(("dy", dy) for dy in dys)] if t.requires_grad]
    ys = tensors_of(case.op.reference(**operands, **case.op.arguments({})))
    first = torch.autograd.grad(ys, [t for n, t in named if n in case.op.penalized], dys, create_graph=True)
    every = torch.autograd.grad(first, [t for _, t in named], hs, allow_unused=True)
    written = {name for (name, _), g in zip(named, every, strict=True) if g is not None and g.abs().max() > 1e-12}
    assert written == set(case.op.second)


def test_each_case_is_there_once_and_a_cut_spares_no_op():
    for toy in (False, True):
        listed = cases(toy=toy)
        assert max(Counter(case.key for case in listed).values()) == 1
    first = [case.op.name for case in cases() if case.rank == 0][: sum(len(op.passes) for op in OPS.values())]
    assert list(dict.fromkeys(first))[:3] == ["adain", "noise_injection", "upfirdn2d"]
    assert set(first) == set(OPS)
    ranks = [case.rank for case in cases()]
    assert ranks == sorted(ranks)


def test_a_type_and_a_layout_reach_every_operand_that_can_have_it():
    problem = Problem("odd", (2, 3, 5, 4), "none")
    given = draw(Case(OPS["interpolate"], problem, "bfloat16", "channels_last", PASSES[2]), torch.device("cpu"))
    real, fake, alpha = given.operands.values()
    assert {t.dtype for t in (real, fake, alpha, *given.dys, *given.hs)} == {torch.bfloat16}
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (real, fake, *given.dys, *given.hs))
    assert (real.requires_grad, alpha.requires_grad) == (True, False)


def test_a_double_backward_has_no_compiled_implementation():
    by_pass = {case.pass_: implementations(case, compile_backend="eager").keys() for case in TOY}
    assert by_pass == {"forward": {"fused", "compile"}, "backward": {"fused", "compile"}, "double_backward": set()}

"""What is particular to minibatch_discrimination; the rest of its tests are in test_every_op.py."""

import importlib
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan_kernels import minibatch_discrimination, reference, use_backend
from tests.kernels.harness import DEVICE, derivatives, random

# The package exports the function under the name of its module.
module = importlib.import_module("fastgan_kernels.ops.minibatch_discrimination")


@pytest.mark.parametrize("function", [minibatch_discrimination, reference.minibatch_discrimination])
def test_three_samples_by_hand(function):
    """M_i of Salimans et al. 2016, section 3.2, in units of log 2, so that a distance d gives c_b = 2^-d.

    The first of two kernels has distances 1 (samples 1 and 2), 3 (1 and 3) and 2 (2 and 3); in the second the samples
    coincide.
    """
    units = torch.tensor([[[0, 0], [5, 5]], [[1, 0], [5, 5]], [[1, 2], [5, 5]]], dtype=torch.float64, device=DEVICE)
    m = (units * math.log(2)).requires_grad_()
    g = torch.ones(3, 2, dtype=torch.float64, device=DEVICE).requires_grad_()
    o = function(m)
    expected = [[1 + 1 / 2 + 1 / 8, 3], [1 + 1 / 2 + 1 / 4, 3], [1 + 1 / 8 + 1 / 4, 3]]
    torch.testing.assert_close(o, torch.tensor(expected, dtype=torch.float64, device=DEVICE))
    (dm,) = torch.autograd.grad(o, m, g, create_graph=True)
    # 2 k for each other sample, towards it; nothing between components that tie.
    expected = [[[5 / 4, 1 / 4], [0, 0]], [[-1, 1 / 2], [0, 0]], [[-1 / 4, -3 / 4], [0, 0]]]
    torch.testing.assert_close(dm, torch.tensor(expected, dtype=torch.float64, device=DEVICE))
    # v is 1 at the first component of sample 1: s = -1 between it and both others, 0 between those.
    v = torch.zeros_like(m)
    v[0, 0, 0] = 1
    dg, dm = torch.autograd.grad(dm, (g, m), v)
    expected = [[1 / 2 + 1 / 8, 0], [1 / 2, 0], [1 / 8, 0]]
    torch.testing.assert_close(dg, torch.tensor(expected, dtype=torch.float64, device=DEVICE))
    expected = [[[5 / 4, 1 / 4], [0, 0]], [[-1, 0], [0, 0]], [[-1 / 4, -1 / 4], [0, 0]]]
    torch.testing.assert_close(dm, torch.tensor(expected, dtype=torch.float64, device=DEVICE))


def test_gradients_at_ties_are_those_of_torch():
    m = random((9, 5, 7), 0).round()
    assert (m[0] == m[1]).any()
    assert (m[0] != m[1]).any()
    cotangents = [random((9, 5), 1), random(m.shape, 2)]
    for found, expected in zip(
        *(derivatives(f, [m], cotangents) for f in (minibatch_discrimination, reference.minibatch_discrimination)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_components_in_chunks():
    """More components than a program holds: their distance is that of all chunks, in the gradient of each."""
    m = random((2, 1, 2100), 0) / 1000
    assert module.pair_tiling(*m.shape).chunks > 1
    cotangents = [random((2, 1), 1), random(m.shape, 2)]
    for found, expected in zip(
        *(derivatives(f, [m], cotangents) for f in (minibatch_discrimination, reference.minibatch_discrimination)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_samples_far_apart_are_alone():
    """Distances beyond what exp can represent are kernels of 0, not NaN."""
    m = (random((5, 3, 4), 0) * 1e6).requires_grad_()
    o, dm, *_ = derivatives(minibatch_discrimination, [m], [random((5, 3), 1), random(m.shape, 2)])
    assert torch.equal(o, torch.ones_like(o))
    assert not dm.any()


class _LargestTensor(TorchDispatchMode):
    """The most bytes that a torch operator returned in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.nbytes = max(self.nbytes, *(t.nbytes for t in tree_leaves(result) if isinstance(t, Tensor)), 0)
        return result


def test_nothing_of_a_pair_of_samples_is_in_memory():
    n, kernels, _ = shape = (20, 3, 4)
    m, g, v = random(shape, 0), random((n, kernels), 1), random(shape, 2)
    largest = {}
    for function in (minibatch_discrimination, reference.minibatch_discrimination):
        with _LargestTensor() as largest[function]:
            derivatives(function, [m], [g, v])
    assert largest[reference.minibatch_discrimination].nbytes == n * m.nbytes
    # Not even the N x N x B kernels, which are n / components times m.
    assert largest[minibatch_discrimination].nbytes == m.nbytes


def test_tiles_fit_and_cover():
    for n, kernels, components in itertools.product((1, 3, 16, 257), (1, 5, 128, 1000), (1, 5, 16, 300, 2048, 2049)):
        tiling = module.pair_tiling(n, kernels, components)
        assert tiling.block_i * tiling.block_b * tiling.block_c <= 2048
        assert tiling.block_i * tiling.block_b <= 128
        assert tiling.tiles == math.ceil(n / tiling.block_i) * math.ceil(kernels / tiling.block_b)
        assert tiling.chunks * tiling.block_c >= components


@pytest.mark.parametrize(
    ("m", "message"),
    [
        (torch.zeros(3, 4), r"m has shape \[3, 4\], expected \[N, B, C\]"),
        (torch.zeros(3, 4, 5, 6), r"m has shape \[3, 4, 5, 6\]"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "m is torch.int64, expected float16"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(m: Tensor, message: str, backend: str):
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=f"^minibatch_discrimination: {message}"):
        minibatch_discrimination(m)

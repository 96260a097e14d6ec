"""``FusedLeakyReLU``, ``fused_leaky_relu`` and ``upfirdn2d`` of ``op``."""

import inspect

import numpy as np
import pytest
import torch

from fastgan.dropin.rosinality import fused_act
from fastgan.dropin.rosinality import upfirdn2d as fir
from tests.fastgan.dropin import plain_ops

SIGNATURES = [
    (fused_act.FusedLeakyReLU, f"channel, bias=True, negative_slope=0.2, scale={2**0.5}"),
    (fused_act.fused_leaky_relu, f"input, bias=None, negative_slope=0.2, scale={2**0.5}"),
    (fir.upfirdn2d, "input, kernel, up=1, down=1, pad=(0, 0)"),
]


@pytest.mark.parametrize(("function", "expected"), SIGNATURES, ids=lambda v: getattr(v, "__name__", ""))
def test_names_order_and_defaults_of_arguments(function, expected):
    parameters = inspect.signature(function).parameters.values()
    assert ", ".join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters) == expected


def images(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5), (0, 3, 2, 2)])
@pytest.mark.parametrize("settings", [{}, {"negative_slope": 0.5, "scale": 1}])
def test_fused_leaky_relu(shape, settings):
    # The slope that is given holds on the CPU, where the original takes 0.2.
    leaves = images(*shape), images(3, seed=1)
    ours = plain_ops.orders(lambda x, b: fused_act.fused_leaky_relu(x, b, **settings), leaves)
    plain_ops.assert_close(
        ours, plain_ops.orders(lambda x, b: plain_ops.fused_leaky_relu(x, b, **settings), leaves), 1e-10
    )
    torch.testing.assert_close(
        fused_act.fused_leaky_relu(leaves[0], **settings), plain_ops.fused_leaky_relu(leaves[0], **settings)
    )


def test_the_layer_has_the_parameters_of_the_original():
    layer = fused_act.FusedLeakyReLU(3, negative_slope=0.3, scale=2).double()
    assert [(n, p.shape, p.any().item()) for n, p in layer.named_parameters()] == [("bias", (3,), False)]
    layer.load_state_dict({"bias": images(3)})
    x = images(2, 3, 4, 4)
    torch.testing.assert_close(layer(x), plain_ops.fused_leaky_relu(x, images(3), 0.3, 2))
    bare = fused_act.FusedLeakyReLU(3, bias=False)
    assert bare.bias is None
    assert not bare.state_dict()
    torch.testing.assert_close(bare(x), plain_ops.fused_leaky_relu(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"pad": (2, 1)},
        {"up": 2, "pad": (2, 1)},
        {"down": 2, "pad": [1, 1]},
        {"up": (2, 1), "down": [1, 3], "pad": (3, 0, -1, 4)},
        {"up": np.int64(2), "pad": (np.int64(-1), 2)},
    ],
    ids=str,
)
def test_upfirdn2d_pads_before_and_after(settings):
    kernel = images(3, 2, seed=1)
    leaves = [images(2, 3, 6, 7)]
    ours = plain_ops.orders(lambda x: fir.upfirdn2d(x, kernel, **settings), leaves)
    plain_ops.assert_close(
        ours, plain_ops.orders(lambda x: plain_ops.upfirdn2d_of_op(x, kernel, **settings), leaves), 1e-10
    )


X = torch.zeros(1, 2, 4, 4)
REFUSED = [
    (fused_act.fused_leaky_relu, (X[0, 0, 0],), {}, "input has shape [4], expected [N, C, ...]"),
    (fused_act.fused_leaky_relu, (X, torch.zeros(3)), {}, "bias has shape [3], expected [2] for input of shape"),
    (fused_act.fused_leaky_relu, (X,), {"negative_slope": -1}, "negative_slope is -1, expected a finite number"),
    (fused_act.fused_leaky_relu, (X,), {"scale": 0}, "scale is 0, expected a finite number above 0"),
    (fir.upfirdn2d, (X[0], torch.ones(2, 2)), {}, "input has shape [2, 4, 4], expected [N, C, H, W]"),
    (fir.upfirdn2d, (X, torch.ones(2)), {}, "kernel has shape [2], expected [height, width]"),
    (
        fir.upfirdn2d,
        (X, torch.ones(2, 2)),
        {"pad": (1, 2, 3)},
        "pad is [1, 2, 3], expected an integer or a list of 2 or 4",
    ),
    (fir.upfirdn2d, (X, torch.ones(2, 2)), {"up": 0}, "up is 0, expected at least 1"),
    (fir.upfirdn2d, (X, torch.ones(5, 5)), {}, "kernel is [5, 5], expected at most [4, 4]"),
]


@pytest.mark.parametrize(("function", "args", "settings", "message"), REFUSED, ids=[r[3] for r in REFUSED])
def test_what_cannot_be_served_is_refused_by_name(function, args, settings, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*args, **settings)
    assert message in str(caught.value)

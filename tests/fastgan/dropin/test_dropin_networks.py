"""Networks in the style of both families compute, to second order, what they do on ops in plain torch."""

from types import SimpleNamespace

import pytest

from fastgan.dropin.nvidia import bias_act, conv2d_gradfix, conv2d_resample, filtered_lrelu, fma, upfirdn2d
from fastgan.dropin.rosinality import conv2d_gradfix as conv2d_gradfix_of_op
from fastgan.dropin.rosinality import fused_act
from fastgan.dropin.rosinality import upfirdn2d as upfirdn2d_of_op
from fastgan_kernels import use_backend
from tests.fastgan.dropin import networks, plain_ops

NVIDIA = SimpleNamespace(
    bias_act=bias_act, upfirdn2d=upfirdn2d, filtered_lrelu=filtered_lrelu, conv2d_resample=conv2d_resample,
    conv2d_gradfix=conv2d_gradfix, fma=fma,
)  # fmt: skip
ROSINALITY = SimpleNamespace(fused_act=fused_act, upfirdn2d=upfirdn2d_of_op, conv2d_gradfix=conv2d_gradfix_of_op)
CASES = [
    (networks.Stylegan2Generator, NVIDIA, plain_ops.NVIDIA),
    (networks.Stylegan2Discriminator, NVIDIA, plain_ops.NVIDIA),
    (networks.Stylegan3Generator, NVIDIA, plain_ops.NVIDIA),
    (networks.RosinalityGenerator, ROSINALITY, plain_ops.ROSINALITY),
    (networks.RosinalityDiscriminator, ROSINALITY, plain_ops.ROSINALITY),
]


@pytest.mark.parametrize(("network", "ours", "plain"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_outputs_and_gradients_of_both_orders_are_those_of_plain_torch(network, ours, plain):
    expected = plain_ops.orders(network(plain), network.leaves)
    plain_ops.assert_close(plain_ops.orders(network(ours), network.leaves), expected, 1e-10)
    singles = [leaf.float() for leaf in network.leaves]
    plain_ops.assert_close(plain_ops.orders(network(ours), singles), expected, 1e-5)
    with use_backend("triton"):
        plain_ops.assert_close(plain_ops.orders(network(ours), singles), expected, 1e-5)

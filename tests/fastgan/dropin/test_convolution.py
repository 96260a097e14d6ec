"""The convolutions of both families: torch's to every order, and no gradient of the weights where that is off."""

import inspect

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.dropin.nvidia import conv2d_gradfix
from fastgan.dropin.rosinality import conv2d_gradfix as conv2d_gradfix_of_op

PACKAGES = pytest.mark.parametrize("package", [conv2d_gradfix, conv2d_gradfix_of_op], ids=["nvidia", "rosinality"])
CASES = [
    ("conv2d", {"padding": 1}),
    ("conv2d", {"stride": 2, "padding": (1, 0), "groups": 2, "dilation": [2, 1]}),
    ("conv_transpose2d", {"stride": 2, "groups": 2, "output_padding": 1, "padding": (0, 1)}),
]


def operands(name, groups=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = (4, 4 // groups, 3, 3)
    drawn = [torch.randn(s, dtype=torch.float64, generator=generator) for s in ((2, 4, 5, 6), shape, (4,))]
    return [t.to(dtype).requires_grad_() for t in drawn]


class Computed(TorchDispatchMode):
    """Which gradients of convolutions are computed: of the input, of the weight, of the bias."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


@PACKAGES
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_they_are_torchs_to_every_order(package, name, settings):
    leaves = operands(name, settings.get("groups", 1))
    ours, theirs = getattr(package, name), getattr(functional, name)
    assert torch.equal(ours(*leaves, **settings), theirs(*leaves, **settings))
    first = [torch.autograd.grad(f(*leaves, **settings).square().sum(), leaves) for f in (ours, theirs)]
    torch.testing.assert_close(*first)
    assert torch.autograd.gradgradcheck(lambda *leaves: ours(*leaves, **settings), leaves, fast_mode=True)


@PACKAGES
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_weight_gradients_are_not_computed_while_they_are_off(package, name, settings):
    x, weight, bias = operands(name, settings.get("groups", 1))
    y = getattr(package, name)(x, weight, bias, **settings)
    with Computed() as computed, package.no_weight_gradients():
        assert package.weight_gradients_disabled
        y.square().sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert bias.grad is not None
    assert computed.masks == [(True, False, False)]
    assert not package.weight_gradients_disabled


@PACKAGES
def test_a_penalty_whose_inner_gradient_skips_the_weights_has_its_gradient_in_them(package):
    x, weight, _ = operands("conv2d")

    def penalty(conv):
        y = conv(torch.tanh(conv(x, weight, padding=1)), weight, padding=1).sum()
        with Computed() as computed, package.no_weight_gradients():
            (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0], computed

    ours, computed = penalty(package.conv2d)
    assert not any(of_weight for _, of_weight, _ in computed.masks)
    torch.testing.assert_close(ours, penalty(functional.conv2d)[0])


@PACKAGES
def test_a_second_order_skips_the_weights_too_while_they_are_off(package):
    x, weight, _ = operands("conv2d")
    (gradient,) = torch.autograd.grad(package.conv2d(x, weight).square().sum(), x, create_graph=True)
    with Computed() as computed, package.no_weight_gradients():
        gradient.square().sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert not any(of_weight for _, of_weight, _ in computed.masks)


@PACKAGES
def test_the_switch_is_put_back_after_an_error(package):
    with pytest.raises(RuntimeError), package.no_weight_gradients():
        raise RuntimeError
    assert not package.weight_gradients_disabled


def test_the_switch_of_nvidias_can_be_left_and_nested():
    with conv2d_gradfix.no_weight_gradients(False):
        assert not conv2d_gradfix.weight_gradients_disabled
    with conv2d_gradfix.no_weight_gradients(), conv2d_gradfix.no_weight_gradients(False):
        assert conv2d_gradfix.weight_gradients_disabled


def test_packages_have_switches_of_their_own():
    with conv2d_gradfix.no_weight_gradients():
        assert not conv2d_gradfix_of_op.weight_gradients_disabled


def test_rosinalitys_have_its_signatures():
    for name in ("conv2d", "conv_transpose2d"):
        ours, theirs = (inspect.signature(getattr(p, name)) for p in (conv2d_gradfix_of_op, conv2d_gradfix))
        assert ours == theirs
    assert not inspect.signature(conv2d_gradfix_of_op.no_weight_gradients).parameters
    assert conv2d_gradfix_of_op.enabled


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_under_autocast_they_run_and_return_what_torchs_do(name):
    leaves = operands(name, dtype=torch.float32)
    results = []
    for package in (conv2d_gradfix, functional):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = getattr(package, name)(*leaves, padding=1)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), leaves)))
    ours, theirs = results
    assert [t.dtype for t in ours] == [t.dtype for t in theirs] == [torch.bfloat16] + 3 * [torch.float32]
    torch.testing.assert_close(ours, theirs)


def test_channels_last_stays():
    x, weight, _ = operands("conv2d")
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    y = conv2d_gradfix.conv2d(x, weight, padding=1)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_functional_and_forward_differentiation_are_torchs():
    x, weight, _ = operands("conv2d")

    def loss(conv):
        return lambda weight: conv(x.detach(), weight, padding=1).square().sum()

    ours, theirs = (loss(conv) for conv in (conv2d_gradfix.conv2d, functional.conv2d))
    torch.testing.assert_close(torch.func.grad(ours)(weight), torch.func.grad(theirs)(weight))
    tangent = torch.ones_like(weight)
    torch.testing.assert_close(*(torch.func.jvp(f, (weight,), (tangent,)) for f in (ours, theirs)))


def test_compiled_they_are_torchs():
    x, weight, bias = operands("conv2d")
    compiled = torch.compile(conv2d_gradfix.conv2d, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, bias, padding=1), functional.conv2d(x, weight, bias, padding=1))

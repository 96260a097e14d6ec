"""What is particular to adain; the rest of its tests are in test_every_op.py."""

import importlib

import pytest
import torch
from torch import nn

from fastgan_kernels import adain, reference, use_backend
from fastgan_kernels.epilogue_backward import launch_backward
from fastgan_kernels.epilogue_forward import launch_forward
from fastgan_kernels.epilogue_tile import EpilogueLaunch, rows
from tests.kernels.harness import check_against_float64, lay_out, random, saved_bytes

# The package exports the function under the name of its module.
epilogue_module = importlib.import_module("fastgan_kernels.style_epilogue")
ADAIN = "linear", 1.0, "paper", 1e-5  # the settings with which style_epilogue is adain


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("pixels", [(7, 9), (65, 70), (130, 131)], ids=str)
def test_variance_of_values_far_from_zero(layout: str, pixels: tuple[int, int]):
    """With E[x^2] - E[x]^2 in float32, 1e6 - 1e6 would leave nothing of a variance of 1."""
    x = random((2, 2, *pixels), 0, torch.float32) + 1e3
    inputs = [lay_out(x, layout), random((2, 2), 1, torch.float32), random((2, 2), 2, torch.float32)]
    check_against_float64(adain, reference.adain, inputs, reduction=x[0, 0].numel())
    y = adain(x, torch.ones_like(inputs[1]), torch.zeros_like(inputs[2]))
    # Rounding of the inputs (6e-5 near 1e3) averages out; cancellation would not.
    torch.testing.assert_close(
        y.double().std((2, 3), unbiased=False), torch.ones(2, 2).to(y).double(), atol=1e-4, rtol=0
    )


def test_planes_in_l2_with_programs_that_take_several():
    """More planes than may be in flight: 130 of 256 KB, where 128 fit the L2 budget."""
    x = random((1, 130, 32768), 0)
    tiling = EpilogueLaunch(x, None, *ADAIN[:3], tensors=1).tiling
    assert not tiling.resident
    assert tiling.spans == 1
    assert tiling.plane_programs == 128
    inputs = [x, random((1, 130), 1), random((1, 130), 2)]
    y = adain(*inputs)
    torch.testing.assert_close(y, reference.adain(*inputs), rtol=1e-11, atol=1e-11)


def test_gradients_of_planes_in_l2():
    x = random((1, 130, 16384), 0).requires_grad_()
    tiling = EpilogueLaunch(x, None, *ADAIN[:3], tensors=2).tiling
    assert not tiling.resident
    assert tiling.plane_programs == 128
    inputs = [x, random((1, 130), 1).requires_grad_(), random((1, 130), 2).requires_grad_()]
    dy = random(x.shape, 3)
    for found, expected in zip(
        *(torch.autograd.grad(f(*inputs), inputs, dy) for f in (adain, reference.adain)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_equals_torch_instance_norm():
    x, scale, shift = random((2, 3, 8, 8), 0), random((2, 3), 1), random((2, 3), 2)
    expected = nn.functional.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(adain(x, scale, shift), expected)
    torch.testing.assert_close(reference.adain(x, scale, shift), expected)


def test_halves_of_one_style_matrix_are_read_in_place(monkeypatch: pytest.MonkeyPatch):
    x, style = random((3, 4, 5, 5), 0), random((3, 8), 1)
    scale, shift = style.chunk(2, dim=1)
    expected = reference.adain(x, scale, shift)
    assert rows(scale).data_ptr() == style.data_ptr()
    torch.testing.assert_close(adain(x, scale, shift), expected)
    # A style whose channels are not neighbours is copied, not misread.
    torch.testing.assert_close(adain(x, scale.T.contiguous().T, shift[:1].expand(3, 4)),
                               reference.adain(x, scale, shift[:1].expand(3, 4)))  # fmt: skip


def test_saves_x_scale_and_two_numbers_a_plane():
    x = random((2, 3, 8, 8), 0, torch.bfloat16).requires_grad_()
    scale, shift = random((2, 3), 1, torch.float32), random((2, 3), 2, torch.float32)
    assert saved_bytes(lambda: adain(x, scale, shift)) == x.numel() * 2 + 3 * (2 * 3 * 4)


def test_one_pixel_leaves_the_shift():
    x, scale, shift = random((2, 3, 1, 1), 0), random((2, 3), 1), random((2, 3), 2)
    assert torch.equal(adain(x, scale, shift).flatten(1), shift)


def test_backward_asks_only_for_what_is_needed(monkeypatch: pytest.MonkeyPatch):
    asked = []
    inner = epilogue_module._style_epilogue_backward

    def spy(*args):
        asked.append(args[-6:])
        return inner(*args)

    monkeypatch.setattr(epilogue_module, "_style_epilogue_backward", spy)
    for needs in ((True, False, False), (False, True, False), (False, False, True)):
        tensors = random((2, 3, 4), 0), random((2, 3), 1), random((2, 3), 2)
        inputs = [t.requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
        adain(*inputs).sum().backward()
    assert asked == [(*needs, False, False, False) for needs in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]


@pytest.mark.parametrize("pixels", [64, 40001])
def test_what_is_not_asked_for_is_empty(pixels: int):
    x, scale = random((1, 2, pixels), 0), random((1, 2), 1)
    absent = (None,) * 4
    _, mean, rstd = launch_forward(x, scale, scale, *absent, *ADAIN)
    operands = x, x, scale, None, *absent, mean, rstd, *ADAIN
    full = launch_backward(*operands, True, True, True, False, False, False)
    for i in range(3):
        needs = [j == i for j in range(6)]
        found = launch_backward(*operands, *needs)
        assert [t.numel() > 0 for t in found] == needs
        assert torch.equal(found[i], full[i])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\]"),
        ({"scale": torch.zeros(3)}, r"scale has shape \[3\], expected \[2, 3\] for x of shape \[2, 3, 4, 4\]"),
        ({"shift": torch.zeros(2, 4)}, r"shift has shape \[2, 4\], expected \[2, 3\]"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.complex64)}, "x is torch.complex64"),
        ({"eps": -1e-5}, "eps is -1e-05"),
        ({"eps": float("nan")}, "eps is nan"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    default = {"x": torch.zeros(2, 3, 4, 4), "scale": torch.zeros(2, 3), "shift": torch.zeros(2, 3)}
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=message):
        adain(**{**default, **arguments})

"""What is particular to adain; the rest of its tests are in test_every_op.py."""

import pytest
import torch
from torch import nn

from fastgan_kernels import adain, reference, use_backend
from fastgan_kernels.ops.norm_act.tile import affine_rows
from tests.kernels.harness import check_against_float64, lay_out, random


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


def test_equals_torch_instance_norm():
    x, scale, shift = random((2, 3, 8, 8), 0), random((2, 3), 1), random((2, 3), 2)
    expected = nn.functional.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(adain(x, scale, shift), expected)
    torch.testing.assert_close(reference.adain(x, scale, shift), expected)


def test_halves_of_one_style_matrix_are_read_in_place():
    x, style = random((3, 4, 5, 5), 0), random((3, 8), 1)
    scale, shift = style.chunk(2, dim=1)
    expected = reference.adain(x, scale, shift)
    assert affine_rows(scale)[0][0].data_ptr() == style.data_ptr()
    torch.testing.assert_close(adain(x, scale, shift), expected)
    # A style whose channels are not neighbors is copied, not misread.
    torch.testing.assert_close(adain(x, scale.T.contiguous().T, shift[:1].expand(3, 4)),
                               reference.adain(x, scale, shift[:1].expand(3, 4)))  # fmt: skip


def test_one_pixel_leaves_the_shift():
    x, scale, shift = random((2, 3, 1, 1), 0), random((2, 3), 1), random((2, 3), 2)
    assert torch.equal(adain(x, scale, shift).flatten(1), shift)


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

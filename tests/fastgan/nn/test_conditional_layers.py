"""Their values and gradients are those of plain torch: tests/fastgan/models/test_plain_torch.py."""

import pytest
import torch
from torch import nn

from fastgan.nn import ConditionalBatchNorm2d

LABELS = torch.tensor([2, 0, 2, 1, 0])


def test_conditional_batch_norm_starts_as_batch_norm():
    x = torch.randn(5, 3, 6, 6)
    layer = ConditionalBatchNorm2d(3, 4, eps=1e-3, momentum=0.3)
    plain = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    assert torch.equal(layer(x, LABELS), plain(x))
    assert torch.equal(layer.norm.running_var, plain.running_var)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_output_of_conditional_batch_norm_has_the_type_of_x(dtype):
    assert ConditionalBatchNorm2d(3, 4).eval()(torch.randn(5, 3, 2, 2, dtype=dtype), LABELS).dtype == dtype

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from fastgan.nn import ConditionalBatchNorm2d, ProjectionHead, largest_singular_values, spectral_norm_
from fastgan_kernels import use_backend

LABELS = torch.tensor([2, 0, 2, 1, 0])


class OneBatchNormAClass(nn.Module):
    """A scale and shift for each class after torch's statistics, sample by sample."""

    def __init__(self, num_features, num_classes):
        super().__init__()
        self.statistics = nn.BatchNorm2d(num_features, affine=False)
        self.weight = nn.Parameter(torch.ones(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features))

    def forward(self, x, labels):
        rows = zip(self.statistics(x), labels.tolist(), strict=True)
        return torch.stack([row * self.weight[k, :, None, None] + self.bias[k, :, None, None] for row, k in rows])


def results(layer, x, cotangent):
    x = x.clone().requires_grad_()
    y = layer(x, LABELS)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], cotangent)]


@pytest.mark.parametrize("training", [True, False])
def test_each_sample_has_the_scale_and_shift_of_its_class(training):
    torch.manual_seed(0)
    ours, theirs = ConditionalBatchNorm2d(3, 4).double(), OneBatchNormAClass(3, 4).double()
    x, cotangent = torch.randn(2, 5, 3, 6, 6, dtype=torch.float64) * 3 + 1
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_())
    ours(x, LABELS), theirs(x, LABELS)  # running statistics that are not their first
    ours.train(training), theirs.train(training)
    found, expected = results(ours, x, cotangent), results(theirs, x, cotangent)
    # Sums of 5 * 36 products, of values up to the largest.
    bound = 5 * 36 * torch.finfo(torch.float64).eps * max(t.abs().max().item() for t in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=bound)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b)
    _, _, of_weight, of_bias = found
    for gradient in (of_weight, of_bias):
        assert gradient[:3].any(1).all()
        assert not gradient[3].any()  # no sample is of class 3


def test_it_begins_as_batch_norm_without_classes():
    x = torch.randn(5, 3, 6, 6)
    layer = ConditionalBatchNorm2d(3, 4, eps=1e-3, momentum=0.3)
    plain = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    assert torch.equal(layer(x, LABELS), plain(x))
    assert torch.equal(layer.norm.running_var, plain.running_var)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_output_of_conditional_batch_norm_has_the_type_of_x(dtype):
    assert ConditionalBatchNorm2d(3, 4).eval()(torch.randn(5, 3, 2, 2, dtype=dtype), LABELS).dtype == dtype


def test_the_projection_adds_the_inner_product_with_the_label():
    torch.manual_seed(0)
    head = ProjectionHead(7, 4).double()
    features = torch.randn(5, 7, dtype=torch.float64)
    logits = head(features, LABELS)
    assert logits.shape == (5, 1)
    psi, bias, v = head.linear.weight[0], head.linear.bias[0], head.embedding.weight
    for f, y, logit in zip(features, LABELS.tolist(), logits, strict=True):
        # Equation 4: y^T V f + psi(f).
        assert logit.item() == pytest.approx((f @ psi + bias + v[y] @ f).item(), rel=1e-12)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_the_embedding_is_normalised_with_the_group(backend):
    """As by torch's parametrisation, in values and gradients, while u and v move."""
    torch.manual_seed(0)
    ours = ProjectionHead(7, 4).double()
    theirs = ProjectionHead(7, 4).double()
    theirs.load_state_dict(ours.state_dict())
    spectral_norm_(ours)
    torch_spectral_norm(theirs.linear), torch_spectral_norm(theirs.embedding)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(5, 7, dtype=torch.float64)
    for _ in range(3):
        with use_backend(backend):
            found = [y := ours(features, LABELS), *torch.autograd.grad(y.square().sum(), [*ours.parameters()])]
        expected = [y := theirs(features, LABELS), *torch.autograd.grad(y.square().sum(), [*theirs.parameters()])]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for _ in range(200):
            ours(features, LABELS)
    assert [v.item() for v in largest_singular_values(ours).values()] == pytest.approx([1, 1], abs=1e-9)
    assert math.dist([0.0] * 28, ours.eval().embedding.weight.flatten().tolist()) > 1.01  # of rank above one

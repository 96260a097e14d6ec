import pytest
import torch
from torch import Tensor

from fastgan.nn import MinibatchDiscrimination


def _as_in_the_paper(x: Tensor, weight: Tensor, kernels: int) -> Tensor:
    """Salimans et al. 2016, section 3.2, with the tensor T [A, B, C]."""
    m = torch.einsum("na,abc->nbc", x, weight.view(x.shape[1], kernels, -1))
    c = torch.exp(-(m[:, None] - m[None]).abs().sum(3))
    return torch.cat([x, c.sum(1)], dim=1)


def test_appends_the_similarities_of_the_paper():
    layer = MinibatchDiscrimination(6, num_kernels=4, kernel_dim=3).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (5, 10)
    torch.testing.assert_close(y, _as_in_the_paper(x, layer.weight, 4))
    assert [(name, p.shape) for name, p in layer.named_parameters()] == [("weight", (6, 12))]
    assert repr(layer) == "MinibatchDiscrimination(6, num_kernels=4, kernel_dim=3)"


@pytest.mark.parametrize("kernel_dim", [1, 16])
@pytest.mark.parametrize("in_features", [32, 512])
def test_samples_begin_at_a_distance_of_one(in_features: int, kernel_dim: int):
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(in_features, 200, kernel_dim)
    m = (torch.randn(60, in_features) @ layer.weight).detach().view(60, 200, kernel_dim)
    distance = (m[:30] - m[30:]).abs().sum(2)
    assert 0.95 < distance.mean() < 1.05


@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 6, 1)])
def test_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"^MinibatchDiscrimination: x has shape \[.*\], expected \[N, 6\]$"):
        MinibatchDiscrimination(6, 4, 3)(torch.zeros(shape))

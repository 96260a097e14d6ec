import torch
from torch import nn

from fastgan.nn import PixelNorm


def test_replaces_the_usual_expression():
    for x in (torch.randn(4, 6, 5, 5, dtype=torch.float64), torch.randn(4, 512, dtype=torch.float64)):
        torch.testing.assert_close(PixelNorm()(x), x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt())
        torch.testing.assert_close(PixelNorm(0.1)(x), x / (x.square().mean(1, keepdim=True) + 0.1).sqrt())


def test_in_a_mapping_network():
    torch.manual_seed(0)
    mapping = nn.Sequential(PixelNorm(), nn.Linear(8, 8))
    z = torch.randn(3, 8)
    # The length of a latent does not matter.
    torch.testing.assert_close(mapping(7 * z), mapping(z))
    assert len(list(mapping.parameters())) == 2


def test_printing_tells_the_setting():
    assert repr(PixelNorm(1e-6)) == "PixelNorm(eps=1e-06)"

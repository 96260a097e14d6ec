import torch
from torch import nn

from fastgan.nn import MinibatchStdDev


class StyleGANsOwn(nn.Module):
    """Karras et al. 2018 as it is usually written."""

    def __init__(self, group_size: int, num_channels: int) -> None:
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        group = min(self.group_size, n)
        y = x.reshape(group, -1, self.num_channels, c // self.num_channels, h, w)
        y = y - y.mean(dim=0)
        y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])
        y = y.reshape(-1, self.num_channels, 1, 1).repeat(group, 1, h, w)
        return torch.cat([x, y], dim=1)


def test_replaces_the_usual_module():
    x = torch.randn(8, 6, 4, 4, dtype=torch.float64)
    for settings in ((4, 1), (2, 3), (100, 2)):
        expected = StyleGANsOwn(*settings)(x)
        torch.testing.assert_close(MinibatchStdDev(*settings)(x), expected)
    torch.testing.assert_close(MinibatchStdDev()(x), StyleGANsOwn(4, 1)(x))


def test_in_a_discriminator():
    torch.manual_seed(0)
    d = nn.Sequential(nn.Conv2d(3, 8, 3), MinibatchStdDev(), nn.Conv2d(9, 8, 3), nn.Flatten(), nn.Linear(32, 1))
    assert len(list(d.parameters())) == 6
    x = torch.randn(4, 3, 6, 6)
    d(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in d.parameters())
    # Batches are judged as such: the same sample scores differently among its like.
    assert not torch.allclose(d(x)[0], d(x[:1].repeat(4, 1, 1, 1))[0])


def test_printing_tells_the_settings():
    assert repr(MinibatchStdDev(8, 2)) == "MinibatchStdDev(group_size=8, num_channels=2)"

import pytest
import torch

from fastgan.nn import NoiseInjection


@pytest.mark.parametrize(("num_channels", "shape"), [(3, (3,)), (None, ())])
def test_strength_begins_at_zero_and_learns(num_channels: int | None, shape: tuple[int, ...]):
    layer = NoiseInjection(num_channels)
    assert [(n, p.shape, p.any().item()) for n, p in layer.named_parameters()] == [("strength", shape, False)]
    assert repr(layer) == f"NoiseInjection({num_channels})"
    x, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 4, 5)
    assert torch.equal(layer(x), x)
    layer(x, noise).sum().backward()
    expected = noise.sum() if num_channels else 3 * noise.sum()
    torch.testing.assert_close(layer.strength.grad, expected.expand(shape))


def test_noise_is_drawn_at_every_call_unless_it_is_given():
    layer = NoiseInjection(3)
    with torch.no_grad():
        layer.strength.copy_(torch.tensor([1.0, 2.0, -0.5]))
    x = torch.zeros(2, 3, 4, 5)
    torch.manual_seed(1)
    first, second = layer(x), layer.eval()(x)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first[:, 1], 2 * first[:, 0])
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    noise = torch.randn(2, 1, 4, 5)
    torch.testing.assert_close(layer(x, noise), noise * layer.strength.view(3, 1, 1))

import numpy as np
import pytest
import torch

from fastgan.data import normalize, to_uint8
from fastgan.data.pixels import resize_images


def test_every_byte_survives_the_round_trip():
    values = torch.arange(256, dtype=torch.uint8)
    normalized = normalize(values)
    assert normalized.dtype == torch.float32
    assert normalized[0] == -1.0
    assert normalized[-1] == 1.0
    assert torch.equal(to_uint8(normalized), values)
    assert torch.equal(values, torch.arange(256, dtype=torch.uint8)), "the input is left alone"


def test_float64_and_float16_round_trip():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(normalize(values).double()), values)
    # Near 1 float16 steps by 2^-11, a sixteenth of a byte's step of 2 / 255: still exact. bfloat16 steps by 2^-8.
    assert torch.equal(to_uint8(normalize(values).half()), values)


def test_rounds_to_nearest_and_clamps():
    step = 2 / 255
    values = torch.tensor([-7.0, -1.0 + 0.49 * step, -1.0 + 0.51 * step, 1.0, 1.5, float("inf"), -float("inf")])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255, 255, 0]
    assert to_uint8(torch.tensor(float("nan"))) == 0


def test_gradients_do_not_follow_into_bytes():
    image = torch.zeros(2, requires_grad=True)
    assert to_uint8(image).tolist() == [128, 128]
    assert image.detach().tolist() == [0, 0]


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match=r"normalize takes uint8 images, got torch\.float32"):
        normalize(torch.zeros(1))
    with pytest.raises(TypeError, match=r"to_uint8 takes floating-point images, got torch\.uint8"):
        to_uint8(torch.zeros(1, dtype=torch.uint8))


def test_resizing_keeps_constants_channels_and_orientation():
    planes = np.stack([np.full((8, 8), 10), np.full((8, 8), 200), np.tile(np.arange(8) * 30, (8, 1))]).astype(np.uint8)
    for resolution in (3, 28):
        resized = resize_images(planes[None], resolution)[0]
        assert resized.shape == (3, resolution, resolution)
        assert (resized[0] == 10).all()
        assert (resized[1] == 200).all()
        assert (np.diff(resized[2, 0].astype(int)) >= 0).all(), "the third plane grows from left to right"
        assert (resized[2] == resized[2, :1]).all()
    assert np.array_equal(resize_images(planes[None], 8)[0], planes)


def test_enlarging_follows_keys_cubic():
    """A line of one pixel, doubled: the kernel with a = -0.5 at distances 0.25 and 0.75; negative lobes are clamped."""
    line = np.zeros((1, 8, 8), np.uint8)
    line[:, :, 4] = 100
    near, far = 1.5 * 0.25**3 - 2.5 * 0.25**2 + 1, 1.5 * 0.75**3 - 2.5 * 0.75**2 + 1
    expected = [0] * 7 + [round(100 * weight) for weight in (far, near, near, far)] + [0] * 5
    assert resize_images(line[None], 16)[0, 0].tolist() == [expected] * 16


def test_reduction_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 64, 32))
    # Sampling every fourth pixel would give all black or all white. Away from the edges the kernel lies symmetrically
    # over as many black as white pixels, so the mean 127.5 remains, rounded either way.
    assert set(np.unique(resize_images(stripes[None], 16)[0, 0, :, 3:-3])) <= {127, 128}

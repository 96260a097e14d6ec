"""A small network fitted on the bundled digits: a classifier of digits, and features that need no download."""

import functools
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from fastgan.data.pixels import normalize, resize_images, to_uint8
from fastgan.random_state import preserved_random_state

NUM_CLASSES = 10
WEIGHTS = Path(__file__).with_name("digit_network.safetensors")
RESOLUTION = 32

# Accuracy on the held-out quarter of the digits; `python -m docs.make digit-network` makes the weights.
ACCURACY = 0.993


class DigitNetwork(nn.Module):
    """Four convolutions, global average pooling to 64 features, and a linear layer to ten classes.

    The mean square of the features of real digits is 1.
    """

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64, self.num_features)
        # 32x32, then 16, 8 and 4, where the last layer's receptive field covers a digit.
        strides = (2, 2, 2, 1)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            # Leaky, so that no feature is zero for every image.
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1), nn.LeakyReLU(0.1)]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(self.num_features, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, 64] and class logits [N, 10] of images [N, 1, 32, 32] in [-1, 1]."""
        features = self.trunk(images)
        return features, self.head(features)


@functools.cache
@preserved_random_state()
def digit_network() -> DigitNetwork:
    """Loads the network with its weights, which are stored as float16; on the CPU, in evaluation mode."""
    network = DigitNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in safetensors.torch.load_file(WEIGHTS).items()})
    return network.eval().requires_grad_(False)


def digit_inputs(images: Tensor) -> Tensor:
    """Converts images, uint8 [N, 1, S, S], to the network's input, float32 [N, 1, 32, 32] in [-1, 1], on the CPU."""
    return normalize(torch.from_numpy(resize_images(images.cpu().numpy(), RESOLUTION)))


@torch.inference_mode()
def classify_digits(images: Tensor) -> Tensor:
    """Classifies images as one of the ten digits, int64 [N] on the CPU; also images that look like no digit.

    ``images`` are [N, 1, S, S], light strokes on dark, S at least 8; uint8, or floating-point in [-1, 1].
    """
    if images.dim() != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3] or images.shape[2] < 8:
        raise ValueError(f"digits have shape {list(images.shape)}, expected [N, 1, S, S] with S at least 8")
    pixels = to_uint8(images) if images.is_floating_point() else images
    return digit_network()(digit_inputs(pixels))[1].argmax(dim=1)

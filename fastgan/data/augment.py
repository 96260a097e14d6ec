"""Augmentation of images on their device: flips of real images, and DiffAugment of all input of the discriminator.

Each sample has its own draws, from torch's global generator on the device. The code does not wait for the device or
branch on its values, so it can be captured in a CUDA graph, and torch.compile makes one graph of it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgan.errors import unknown

# Fractions of the image size: the largest shift, and the edge length of the cutout.
_TRANSLATION = 1 / 8
_CUTOUT = 1 / 2


def random_flip(images: Tensor) -> Tensor:
    """Mirrors each image [N, C, H, W], of any dtype, left to right with probability 1/2; keeps channels-last."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def parse_policy(text: str) -> tuple[str, ...]:
    """Reads a policy such as ``"color,translation,cutout"``; an empty text is an empty policy."""
    policy = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for index, name in enumerate(policy):
        if name not in _AUGMENTATIONS:
            raise ValueError(unknown("augmentation", name, _AUGMENTATIONS, " in diff_augment"))
        if name in policy[:index]:
            raise ValueError(f"diff_augment names {name!r} twice")
    return policy


def check_policy(policy: Sequence[str], image_shape: Sequence[int]) -> None:
    """Raises ValueError, one sentence, for images [C, H, W] for which an augmentation of the policy is not defined.

    ``color`` needs 1 or 3 channels; ``translation`` at least 4 pixels, or images would never move; ``cutout`` at least
    2, or they would be cut out entirely.
    """
    channels, *size = image_shape
    found = f"images of {size[1]}x{size[0]} with {channels} channel{'s' * (channels != 1)}"
    if "color" in policy and channels not in (1, 3):
        raise ValueError(f"diff_augment 'color' got {found}; expected 1 or 3 channels")
    for name, smallest in (("translation", 4), ("cutout", 2)):
        if name in policy and min(size) < smallest:
            raise ValueError(f"diff_augment {name!r} got {found}; expected at least {smallest}x{smallest}")


def diff_augment(images: Tensor, policy: Sequence[str]) -> Tensor:
    """DiffAugment: random differentiable changes to real and generated images alike.

    Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (https://arxiv.org/abs/2006.10738,
    section 3 and appendix), for images in [-1, 1]:

    - ``color``: brightness, ``x + U(-0.5, 0.5)``; then saturation, the deviation from the mean of a pixel's channels
      times ``U(0, 2)``, which leaves grayscale as it is; then contrast, the deviation from the image's mean times
      ``U(0.5, 1.5)``. Values outside [-1, 1] are not clamped, which would stop their gradient.
    - ``translation``: by whole pixels, up to an eighth of the size each way, rounded; the border is filled with 0,
      mid-gray.
    - ``cutout``: a square of half the size, rounded, becomes 0. Its center is anywhere in the image, so part of the
      square may fall outside.

    They are applied in this order, whatever the order in ``policy``.

    Args:
        images: [N, C, H, W] of any floating-point dtype; channels-last is kept.
        policy: a result of :func:`parse_policy`.

    Returns:
        Images of the same shape, dtype and memory format, differentiable to any order.
    """
    check_policy(policy, images.shape[1:])
    for name, augmentation in _AUGMENTATIONS.items():
        if name in policy:
            images = augmentation(images)
    return images


def _color(images: Tensor) -> Tensor:
    images = images + (_uniform(images) - 0.5)
    if images.shape[1] > 1:
        gray = images.mean(1, keepdim=True)
        images = gray + (images - gray) * (2 * _uniform(images))
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (_uniform(images) + 0.5)


def _translation(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    row, inside_rows = _moved(images, height)
    column, inside_columns = _moved(images, width)
    pixel = (row[:, :, None] * width + column[:, None, :]).flatten(1)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    # One gather of an image's pixels, along the axis that its memory format gives them.
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        pixels = images.permute(0, 2, 3, 1).flatten(1, 2)
        moved = pixels.gather(1, pixel[:, :, None].expand_as(pixels))
        moved = moved.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    else:
        pixels = images.flatten(2)
        moved = pixels.gather(2, pixel[:, None, :].expand_as(pixels)).unflatten(2, (height, width))
    return torch.where(inside, moved, 0)


def _moved(images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """For each sample and position on an axis, [N, size]: the source position, int64, and whether it is inside."""
    most = _round(size * _TRANSLATION)
    shift = torch.randint(-most, most + 1, (len(images), 1), device=images.device)
    position = torch.arange(size, device=images.device) - shift
    return position.clamp(0, size - 1), (position >= 0) & (position < size)


def _cutout(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    cut = _cut(images, height)[:, None, :, None] & _cut(images, width)[:, None, None, :]
    return torch.where(cut, 0, images)


def _cut(images: Tensor, size: int) -> Tensor:
    """For each sample and position on an axis, whether it is cut out, bool [N, size]."""
    length = _round(size * _CUTOUT)
    # The center is one of size pixels for an odd length, and one of size + 1 pixel borders for an even one.
    center = torch.randint(0, size + 1 - length % 2, (len(images), 1), device=images.device)
    since_first = torch.arange(size, device=images.device) - (center - length // 2)
    return (since_first >= 0) & (since_first < length)


def _uniform(images: Tensor) -> Tensor:
    """A number in [0, 1) per sample, drawn in float32: half precision has few values, and all dtypes get the same."""
    return torch.rand(len(images), 1, 1, 1, device=images.device).to(images.dtype)


def _round(length: float) -> int:
    return int(length + 0.5)


_AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "color": _color,
    "translation": _translation,
    "cutout": _cutout,
}

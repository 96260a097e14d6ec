"""Pixel values and sizes: bytes to the range of the models, back, and resampling."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def normalize(images_uint8: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [-1, 1], linearly: ``x / 127.5 - 1``. Any shape, any device.

    Raises:
        TypeError: the input is not uint8.
    """
    if images_uint8.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images, got {images_uint8.dtype}.")
    return images_uint8.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images_float: Tensor) -> Tensor:
    """Floats in [-1, 1] to bytes, rounded to the nearest; values outside the range are clamped, NaN becomes 0.

    The inverse of :func:`normalize` for all 256 values. Any shape, any device; half types are computed in float32.

    Raises:
        TypeError: the input is not of a floating-point type.
    """
    if not images_float.is_floating_point():
        raise TypeError(f"to_uint8 takes floating-point images, got {images_float.dtype}.")
    scaled = (images_float.detach().float() + 1.0) * 127.5
    return scaled.nan_to_num_(nan=0.0).round_().clamp_(0.0, 255.0).to(torch.uint8)


def resize_image(image: np.ndarray, resolution: int) -> np.ndarray:
    """One uint8 image [C, H, W] to [C, resolution, resolution] by Pillow's antialiased bicubic filter.

    The filter's support grows with the reduction, so a reduced image does not alias. Bicubic (Keys, "Cubic convolution
    interpolation for digital image processing", 1981, a = -0.5): sharper than the triangle filter on the enlarged 8x8
    digits, and without Lanczos's far ringing: at 28x28 that lights 44% of the background pixels, by up to 18 of 255,
    bicubic none (pixels whose source cell and its 8 neighbors are 0). Pillow computes in fixed point, so the same
    bytes come out on every machine.
    """
    if image.shape[1:] == (resolution, resolution):
        return image
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((resolution, resolution), Image.Resampling.BICUBIC)
        for plane in image
    ]
    return np.stack([np.asarray(plane) for plane in planes])


def resize_images(images: np.ndarray, resolution: int) -> np.ndarray:
    """:func:`resize_image` for a uint8 batch [N, C, H, W]."""
    return np.stack([resize_image(image, resolution) for image in images])

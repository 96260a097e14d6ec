"""Pixel values and sizes: conversion between bytes and the models' range, and resampling."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def normalize(images_uint8: Tensor) -> Tensor:
    """Converts bytes 0..255 to float32 in [-1, 1]: ``x / 127.5 - 1``. Any shape, any device.

    Raises:
        TypeError: for input that is not uint8.
    """
    if images_uint8.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images, got {images_uint8.dtype}.")
    return images_uint8.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images_float: Tensor) -> Tensor:
    """Converts floats in [-1, 1] to bytes, rounded to the nearest; values outside are clamped, NaN becomes 0.

    The inverse of :func:`normalize` for all 256 values. Any shape, any device; half precision is computed in float32.

    Raises:
        TypeError: for input that is not floating-point.
    """
    if not images_float.is_floating_point():
        raise TypeError(f"to_uint8 takes floating-point images, got {images_float.dtype}.")
    scaled = (images_float.detach().float() + 1.0) * 127.5
    return scaled.nan_to_num_(nan=0.0).round_().clamp_(0.0, 255.0).to(torch.uint8)


def to_pillow(pixels: np.ndarray | Tensor) -> Image.Image:
    """Converts uint8 pixels [C, H, W] to a Pillow image, gray (C = 1) or color (C = 3)."""
    array = np.asarray(pixels.cpu() if isinstance(pixels, Tensor) else pixels)
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def to_array(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image of mode L or RGB to pixels, uint8 [C, H, W], C 1 or 3."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def fit_image(image: Image.Image, resolution: int, fit: str = "crop") -> Image.Image:
    """Fits an image of any size to a square of ``resolution``, with Pillow's antialiased bicubic filter.

    The filter's support grows with the reduction, so a reduced image does not alias. The bicubic filter (Keys, "Cubic
    convolution interpolation for digital image processing", 1981, a = -0.5) is sharper than the triangle filter on the
    enlarged 8x8 digits, and does not ring as far as Lanczos: at 28x28 Lanczos lights 44% of the background pixels
    (those whose source cell and its 8 neighbors are 0), by up to 18 of 255, bicubic none. Pillow computes in fixed
    point, so the bytes are the same on every machine.

    Args:
        image: a Pillow image of mode L or RGB.
        resolution: edge length of the result.
        fit: ``crop`` keeps the middle square; ``pad`` keeps the whole image and adds black; ``stretch`` changes the
            proportions. For a square image they are the same.
    """
    size = (resolution, resolution)
    width, height = image.size
    if fit == "pad" and width != height:
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC)
    box = (0, 0, width, height)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, box)


def resize_images(images: np.ndarray, resolution: int) -> np.ndarray:
    """Resizes square uint8 images [N, C, S, S], C 1 or 3, to [N, C, resolution, resolution] by :func:`fit_image`."""
    return np.stack([to_array(fit_image(to_pillow(image), resolution)) for image in images])

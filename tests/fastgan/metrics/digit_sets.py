"""Real digits and what was done to them, with their features."""

import functools

import torch

from fastgan.data import load_dataset
from fastgan.metrics.features import Features, load_features
from fastgan.metrics.scores import score_values

RESOLUTION = 32


@functools.cache
def digits():
    return load_dataset("digits", resolution=RESOLUTION)


@functools.cache
def features_of_digits():
    return features_of(digits().images)


def features_of(images):
    return load_features("digits", torch.device("cpu"))(images)


def at(features, indices):
    return Features(features.values[indices], features.logits[indices])


def halves(seed=0):
    order = torch.randperm(len(digits().images), generator=torch.Generator().manual_seed(seed))
    return order[::2], order[1::2]


def of_classes(*classes):
    """Indices of the digits of some classes."""
    return torch.isin(digits().labels, torch.tensor(classes)).nonzero()[:, 0]


def scores_of(images):
    return score_values(features_of_digits(), features_of(images))


def noisy(amount):
    noise = torch.randn(digits().images.shape, generator=torch.Generator().manual_seed(0))
    return (digits().images + amount * noise).clamp(0, 255).to(torch.uint8)


def blurred(size):
    images = digits().images.float()
    return torch.nn.functional.avg_pool2d(images, size, 1, size // 2).round().to(torch.uint8)

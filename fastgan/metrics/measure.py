"""Computes features and classes of generated and real images in batches, so that they need not fit into memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgan.data import LazyImages, normalize, to_uint8
from fastgan.data.gaussians import CENTERS, are_points, to_points
from fastgan.metrics.digits import NUM_CLASSES, classify_digits
from fastgan.metrics.errors import MetricsError
from fastgan.metrics.features import FeatureNetwork, Features
from fastgan.metrics.modes import nearest_mode
from fastgan.metrics.shares import Shares
from fastgan.sampling import draw_latents, render
from fastgan.seeds import Stream, seed_of

BATCH_SIZE = 64

# An 8x8 grid of images, and enough points to see eight modes.
_NUM_IMAGES, _NUM_POINTS = 64, 1000


@dataclass(frozen=True)
class Classifier:
    """Classifies images.

    Attributes:
        kind: what the classes are, in the plural.
        names: names of the classes.
        classify: maps uint8 images [N, C, S, S] to class indices, int64 [N]; -1 for no class.
    """

    kind: str
    names: tuple[str, ...]
    classify: Callable[[Tensor], Tensor]

    def count(self, images: Tensor) -> Tensor:
        """The number of images per class, int64 [K]."""
        classes = self.classify(images)
        return classes[classes >= 0].bincount(minlength=len(self.names))


@dataclass(frozen=True)
class Measured:
    """The results of :func:`measure`.

    Attributes:
        features: features of all images.
        counts: number of images per class, or None without a classifier.
        shown: images for the picture, uint8 [n, C, S, S].
    """

    features: Features
    counts: list[int] | None
    shown: Tensor


def classifier_of(features: FeatureNetwork) -> Classifier | None:
    """The classifier that belongs to a feature network; None except for digits and points."""
    if features.name == "digits":
        return Classifier("digits", tuple(map(str, range(NUM_CLASSES))), classify_digits)
    if features.name == "points":
        names = tuple(f"({x:g}, {y:g})" for x, y in CENTERS)
        return Classifier("modes", names, lambda images: nearest_mode(to_points(normalize(images))))
    return None


def shares_of(classifier: Classifier | None, real: Measured, generated: Measured) -> Shares | None:
    """The shares of the classes among real and generated images; None without a classifier."""
    if classifier is None or real.counts is None or generated.counts is None:
        return None
    counts = len(real.features.values), len(generated.features.values)
    return Shares(classifier.kind, classifier.names, real.counts, generated.counts, *counts)


def measure(
    batches: Iterator[Tensor],
    features: FeatureNetwork,
    classifier: Classifier | None,
    advance: Callable[[int], None] = lambda count: None,
) -> Measured:
    """Computes features and class counts of batches of uint8 images [n, C, S, S], at least one.

    ``advance`` is called after each batch with its number of images.
    """
    found, shown = [], []
    counts = torch.zeros(0 if classifier is None else len(classifier.names), dtype=torch.int64)
    for images in batches:
        found.append(features(images))
        if classifier is not None:
            counts += classifier.count(images)
        if sum(map(len, shown)) < num_shown(images):
            shown.append(images)
        advance(len(images))
    logits = None if found[0].logits is None else torch.cat([batch.logits for batch in found])
    values = torch.cat([batch.values for batch in found])
    kept = torch.cat(shown)
    return Measured(Features(values, logits), None if classifier is None else counts.tolist(), kept[: num_shown(kept)])


def num_shown(images: Tensor) -> int:
    """The number of images like these that a picture shows."""
    return _NUM_POINTS if are_points(images) else _NUM_IMAGES


def real_batches(images: Tensor) -> Iterator[Tensor]:
    """Divides uint8 images [N, C, S, S] into batches."""
    yield from images.split(BATCH_SIZE)


def generated_batches(generator: nn.Module, count: int, *, seed: int, labels: Tensor | None) -> Iterator[Tensor]:
    """Generates images from a seed, with ``labels`` int64 [count] for a conditional generator.

    Yields batches, uint8 [n, C, S, S] like the real images, so that the compared pixels are those of saved files.
    """
    latents = draw_latents(count, generator.latent_dim, seed=seed).split(BATCH_SIZE)
    of_batches = [None] * len(latents) if labels is None else labels.split(BATCH_SIZE)
    for i, (batch, of_batch) in enumerate(zip(latents, of_batches, strict=True)):
        images = render(generator, batch, of_batch)
        bad = (~images.isfinite()).flatten(1).any(dim=1)
        if bad.any():
            first = i * BATCH_SIZE + int(bad.int().argmax())
            raise MetricsError(
                f"generated image {first} has values that are infinite or not a number, so it cannot be evaluated"
            )
        yield to_uint8(images)


def choose_real(data: LazyImages, count: int, *, seed: int) -> tuple[Tensor, Tensor | None]:
    """Draws images from a data set without replacement, and reads no others.

    Returns:
        The images, uint8 [n, C, S, S] in the order of the data, n at most ``count``, and their labels.
    """
    images, labels = data.batch(choose(len(data), count, seed=seed))
    return images, None if None in labels else torch.tensor(labels)


def choose(size: int, count: int, *, seed: int, part: int = 0) -> list[int]:
    """Draws ``count`` of ``size`` indices without replacement, or all if fewer, in ascending order.

    ``part`` is 0 for real images and 1 for images that are compared with them.
    """
    random = torch.Generator().manual_seed(seed_of(seed, Stream.METRICS, part))
    return torch.randperm(size, generator=random)[:count].sort().values.tolist()


def labels_like(labels: Tensor | None, generator: nn.Module, count: int) -> Tensor | None:
    """Labels for a conditional generator, int64 [count]: those of real images, repeated, or the classes in turn."""
    num_classes = getattr(generator, "num_classes", None)
    if num_classes is None:
        return None
    source = torch.arange(num_classes) if labels is None else labels
    return source.repeat(-(-count // len(source)))[:count]

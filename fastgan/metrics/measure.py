"""Computes features of generated and real images in batches, so that they need not fit into memory."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from fastgan.data import LazyImages, to_uint8
from fastgan.data.gaussians import are_points
from fastgan.metrics import MetricsError
from fastgan.metrics.features import FeatureNetwork, Features
from fastgan.sampling import draw_latents, render
from fastgan.seeds import Stream, seed_of

BATCH_SIZE = 64

# An 8x8 grid of images, and enough points to see eight modes.
_NUM_IMAGES, _NUM_POINTS = 64, 1000


def measure(
    batches: Iterable[Tensor], network: FeatureNetwork, advance: Callable[[int], None] = lambda count: None
) -> tuple[Features, Tensor]:
    """Computes the features of one or more batches of uint8 images [n, C, S, S].

    ``advance`` is called after each batch with its number of images. Returns the features of all images, and the first
    images, uint8 [n, C, S, S], as many as a picture shows.
    """
    found, shown = [], []
    for images in batches:
        found.append(network(images))
        if sum(map(len, shown)) < num_shown(images):
            shown.append(images)
        advance(len(images))
    logits = None if found[0].logits is None else torch.cat([batch.logits for batch in found])
    kept = torch.cat(shown)
    return Features(torch.cat([batch.values for batch in found]), logits), kept[: num_shown(kept)]


def num_shown(images: Tensor) -> int:
    """The number of images like these that a picture shows."""
    return _NUM_POINTS if are_points(images) else _NUM_IMAGES


def real_batches(images: Tensor) -> Iterator[Tensor]:
    """Divides uint8 images [N, C, S, S] into batches."""
    yield from images.split(BATCH_SIZE)


def generated_batches(generator: nn.Module, count: int, *, seed: int, labels: Tensor | None) -> Iterator[Tensor]:
    """Generates images from a seed, with ``labels`` int64 [count] for a conditional generator.

    Yields batches, uint8 [n, C, S, S] rounded as in saved files, so that a run and its files get the same scores.
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

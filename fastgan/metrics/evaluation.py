"""Evaluates one set of images against another: all scores, and whether modes are missing."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.data import LazyImages, normalize, open_dataset
from fastgan.data.dataset import open_images
from fastgan.data.images import ImageStream
from fastgan.metrics import MetricsError
from fastgan.metrics.collapse import detect_collapse
from fastgan.metrics.collapse_picture import collapse_picture
from fastgan.metrics.features import FeatureNetwork, Features, load_features
from fastgan.metrics.measure import BATCH_SIZE, choose, measure
from fastgan.metrics.report import Basis, Evaluation, collapse_to_json
from fastgan.metrics.scores import require_count, score
from fastgan.random_state import seeded_random_state
from fastgan.sampling import picture

# Papers use 50,000. With fewer images FID is too large, but equally for all runs that are compared.
DEFAULT_COUNT = 10_000

_OF_BUNDLED = {"digits": "digits", "gaussians": "points"}


def evaluate(
    images_a: Any,
    images_b: Any,
    features: str | Callable[[Tensor], Any] | None = None,
    seed: int = 0,
    *,
    count: int | None = None,
    device: torch.device | str = "cpu",
    weights: Path | None = None,
) -> Evaluation:
    """Evaluates ``images_a`` against ``images_b``, which count as the real images.

    Images are read in batches, so they need not fit into memory; only their features are kept.

    Args:
        images_a, images_b: paths, Datasets (map-style or iterable), arrays or tensors, as
            :func:`fastgan.data.load_dataset` takes them; at least 12 images each. ``images_b`` are resized to the
            resolution of ``images_a``, which is the smallest of their shorter sides.
        features: as in :func:`fastgan.metrics.features.load_features`, or a function of uint8 images [N, C, S, S] that
            returns features [N, F]; by default those of the bundled data, and ``inception`` for others.
        seed: seed of the choice of images, of clusters and of resampling.
        count: maximum number of images on each side; 10,000 by default.
        device: device of the feature network.
        weights: weights file of ``inception``.

    Returns:
        The report: ``report.fid``, ``report.kid``, ``report.precision`` and so on are numbers; ``report.scores`` also
        has their standard errors, and ``report.picture`` shows mode collapse.

    Raises:
        DataError, MetricsError: for images that cannot be used, or that the features do not take; one sentence.
    """
    count = count or DEFAULT_COUNT
    data_a = _open(images_a, None, count)
    data_b = _open(images_b, data_a.image_shape[-1], count)
    if data_a.image_shape != data_b.image_shape:
        raise MetricsError(
            f"the images of {data_a.name} have {data_a.image_shape[0]} channels, and those of {data_b.name} "
            f"{data_b.image_shape[0]}; expected the same number"
        )
    name = features or features_of(data_b.name)
    network = load_features(name, torch.device(device), weights=weights)
    chosen_a = choose(len(data_a), count, seed=seed, part=1)
    chosen_b = choose(len(data_b), count, seed=seed)
    require_count(len(chosen_b), "real")
    require_count(len(chosen_a), "generated")
    digest = hashlib.sha256(repr(((len(chosen_b), *data_b.image_shape), str(torch.uint8))).encode())
    real, shown_b = measure(_batches(data_b, chosen_b, digest), network)
    generated, shown_a = measure(_batches(data_a, chosen_a), network)
    shape = "x".join(map(str, data_a.image_shape))
    basis = Basis.of(network, shape, data_b.name, digest.hexdigest(), len(chosen_b), len(chosen_a))
    evaluation = compare(real, generated, (shown_b, shown_a), network, basis, of=data_a.name, step=None, seed=seed)
    evaluation.notes[:0] = [f"{data.name}: {note}" for data in (data_a, data_b) for note in data.notes]
    return evaluation


def compare(
    real: Features,
    generated: Features,
    shown: tuple[Tensor, Tensor],
    network: FeatureNetwork,
    basis: Basis,
    *,
    of: str,
    step: int | None,
    seed: int,
    replicates: Iterable[int] | None = None,
) -> Evaluation:
    """Evaluates the features of a run or images ``of``.

    ``shown`` are some real and some generated images, uint8 [n, C, S, S], ``seed`` is that of clusters and resampling,
    and ``replicates`` the ``progress`` of :func:`fastgan.metrics.scores.score`.
    """
    scores = score(real, generated, seed=seed, progress=replicates)
    collapse = detect_collapse(real, generated, network.shares(real, generated), seed=seed)
    drawn = [picture(normalize(images)) for images in shown]
    return Evaluation(
        run=of,
        step=step,
        seed=seed,
        basis=basis,
        scores=scores,
        collapse=collapse_to_json(collapse),
        notes=_notes(basis, network, generated),
        picture=collapse_picture(*drawn, collapse.shown),
    )


def features_of(data: str) -> str:
    """Name of the default features for data with this name."""
    return _OF_BUNDLED.get(data, "inception")


def _open(images: Any, resolution: int | None, count: int) -> LazyImages:
    opened = open_images(images, resolution=resolution)
    if not isinstance(opened, ImageStream):
        return opened
    with seeded_random_state(0):  # as items of a map-style dataset are read
        first = open_dataset(list(itertools.islice(images, count)), resolution=opened.image_shape[-1])
    first.name = opened.name
    return first


def _batches(data: LazyImages, chosen: list[int], digest: Any = None) -> Iterator[Tensor]:
    for start in range(0, len(chosen), BATCH_SIZE):
        images, _ = data.batch(chosen[start : start + BATCH_SIZE], seed=start)
        if digest is not None:
            digest.update(images.numpy())
        yield images


def _notes(basis: Basis, network: FeatureNetwork, generated: Features) -> list[str]:
    dimension = generated.values.shape[1]
    fewest = min(basis.num_real, basis.num_generated)
    notes = []
    if fewest <= dimension:
        notes.append(
            f"FID is computed from {fewest} images with {dimension} features, so the covariance is singular and FID is "
            "far too large; use more than ten images per feature"
        )
    if not network.determined:
        notes.append(
            f"features {basis.features!r} are your own function, whose digest covers only its own file; compare with "
            "earlier reports only if the other modules and weights that it uses are unchanged"
        )
    if generated.logits is None:
        notes.append(f"features {basis.features!r} give no class logits, so there is no Inception Score")
    return notes

"""Evaluation: the FID of the generator's EMA during training, and the full report of a run."""

import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from fastgan.console import progress_bars
from fastgan.data import absolute_source, open_dataset
from fastgan.exporting import is_model_folder
from fastgan.metrics.cache import cache_folder, cached, digest_of
from fastgan.metrics.distances import frechet_distance
from fastgan.metrics.evaluation import DEFAULT_COUNT, compare, features_of
from fastgan.metrics.features import Features, load_features
from fastgan.metrics.measure import (
    choose_real,
    generated_batches,
    labels_like,
    measure,
    num_shown,
    real_batches,
)
from fastgan.metrics.report import Basis, Evaluation
from fastgan.metrics.scores import REPLICATES, require_count
from fastgan.sampling import draw_latents, render
from fastgan.training.build import require_data
from fastgan.training.checkpoint import Model, load_trained_generator
from fastgan.training.config import SettingsError, TrainingConfig, load_settings
from fastgan.training.device import resolve_device

# Packages that resize images or compute features.
_COMPUTING = ("fastgan", "torch", "pillow", "torch-fidelity")


class Subject:
    """A run to evaluate: its generator's EMA, real images at the size of its generated ones, and the feature network.

    Args:
        data: real images, as :func:`fastgan.data.open_dataset` takes them; the run's data by default.
        count: number of generated images, and maximum of real ones; by default the number of real ones, up to 10,000.
        features, weights: as in :func:`fastgan.metrics.evaluation.evaluate`.
        model: as in :func:`fastgan.load_generator`.
        seed: seed of latents, of the choice of real images, of clusters and of resampling.
        warn: called with one sentence per damaged checkpoint or cached file.

    Raises:
        SettingsError, DataError, CheckpointError, MetricsError: one sentence.
    """

    def __init__(
        self,
        run: Path,
        *,
        data: str | None = None,
        count: int | None = None,
        features: str | None = None,
        weights: Path | None = None,
        model: Model | None = None,
        device: str = "auto",
        seed: int = 0,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.run, self._seed, self._warn = run, seed, warn
        self._device = resolve_device(device)
        self._generator, self._step = generator, _ = load_trained_generator(run, self._device, model=model, warn=warn)
        if data is None:
            if is_model_folder(run):
                raise SettingsError(f"export {str(run)!r} does not say what it was trained on; give images with --data")
            data = load_settings(run / "config.toml").get("data", "digits")
            require_data(run, data)
        source = absolute_source(data)
        latent = draw_latents(1, generator.latent_dim, seed=seed)
        channels, size = render(generator, latent, labels_like(None, generator, 1)).shape[1:3]
        dataset = open_dataset(source, resolution=size)
        if dataset.image_shape[0] != channels:
            raise SettingsError(
                f"run {str(run)!r} generates images with {channels} channel{'s' if channels != 1 else ''}, and those "
                f"of {source!r} have {dataset.image_shape[0]}"
            )
        count = min(len(dataset), DEFAULT_COUNT) if count is None else count
        require_count(len(dataset), "real")
        require_count(count, "generated")
        self._features = load_features(features or features_of(source), self._device, weights=weights)
        self._real, labels = choose_real(dataset, count, seed=seed)
        self._labels = labels_like(labels, generator, count)
        shape = f"{channels}x{size}x{size}"
        self.basis = Basis.of(self._features, shape, source, digest_of(self._real), len(self._real), count)

    def evaluate(self, console: Console) -> Evaluation:
        """Generates and measures images, with progress in the console."""
        basis, seed = self.basis, self._seed
        with progress_bars(console, transient=True) as progress:
            real_task = progress.add_task("real images", total=basis.num_real)
            generated_task = progress.add_task("generated images", total=basis.num_generated)
            resampling = progress.add_task("resampling", total=REPLICATES)

            batches = generated_batches(self._generator, basis.num_generated, seed=seed, labels=self._labels)
            generated, shown = measure(batches, self._features, lambda n: progress.advance(generated_task, n))
            real = self._real_features(lambda n: progress.advance(real_task, n))
            progress.update(real_task, completed=basis.num_real)
            # Evenly spaced, since the data may be sorted by class.
            spread = torch.linspace(0, basis.num_real - 1, min(basis.num_real, num_shown(self._real))).long()
            return compare(
                real,
                generated,
                (self._real[spread], shown),
                self._features,
                basis,
                of=str(self.run),
                step=self._step,
                seed=seed,
                replicates=progress.track(range(REPLICATES), task_id=resampling),
            )

    def _real_features(self, advance: Callable[[int], None]) -> Features:
        def compute() -> Features:
            return measure(real_batches(self._real), self._features, advance)[0]

        if not self._features.determined:
            return compute()
        # The images' digest covers their data, size, number and choice.
        key = {
            "images": self.basis.data_digest,
            "features": self.basis.features,
            "features_digest": self.basis.features_digest,
            "filter": self.basis.filter,
            # Results differ in the last digits between devices.
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type,
            "tf32": torch.backends.cudnn.allow_tf32,
            **{package: _version(package) for package in _COMPUTING},
        }
        return cached(key, compute, cache_folder(), warn=self._warn)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class Best(NamedTuple):
    """The lowest FID of a run so far.

    Attributes:
        step: step of its checkpoint.
        fid: the FID.
        basis: the features, images and counts it depends on; only FIDs with equal bases are compared.
    """

    step: int
    fid: float
    basis: str


class FidTracker:
    """Measures the FID of a run's generator EMA against the run's data.

    With ``evaluate_every`` 0 no feature network is loaded. ``best`` is that of a resumed run; ``data`` are real images,
    as :func:`fastgan.data.open_dataset` takes them, by default those of the settings.

    Raises:
        SettingsError, DataError, MetricsError: for settings that exclude each other, or images that the features do not
            take; one sentence.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device, best: Best | None = None, *, data: Any = None
    ) -> None:
        self.best = best
        self._data = config.data if data is None else data
        self._config = config
        self._real: dict[int, tuple[Features, str]] = {}
        if not config.evaluate_every:
            return
        if config.evaluate_every % config.log_every:
            raise SettingsError(
                f"evaluate_every is {config.evaluate_every}, and the FID is reported with the losses: expected a "
                f"multiple of log_every, {config.log_every}"
            )
        name = config.evaluate_features
        if name == "auto":
            name = features_of(config.data)
            if name == "inception":
                raise SettingsError(
                    f"evaluate_features is 'auto', and there are none for {config.data!r}; expected digits (of gray "
                    "images) or inception"
                )
        self._network = load_features(name, device)
        self._features_of_real(config.resolution)

    def measure(self, generator: nn.Module, step: int) -> tuple[float, bool]:
        """The FID of ``evaluate_count`` images, always from the same latents, against as many real ones, and whether it
        is the best so far."""
        config, count = self._config, self._config.evaluate_count
        labels = labels_like(None, generator, count)
        batches = generated_batches(generator, count, seed=config.seed, labels=labels)
        generated, shown = measure(batches, self._network)
        size = shown.shape[-1]
        real, digest = self._features_of_real(size)
        fid = frechet_distance(real.values, generated.values)
        basis = (
            f"{self._network.name} {self._network.digest[:12]}, {size}x{size}, {count} images, real ones {digest[:12]}"
        )
        improved = self.best is None or self.best.basis != basis or fid < self.best.fid
        if improved:
            self.best = Best(step, fid, basis)
        return fid, improved

    def _features_of_real(self, size: int) -> tuple[Features, str]:
        """Features and digest of the real images at the size of the generated ones, which grows while networks grow."""
        if size not in self._real:
            data = open_dataset(self._data, resolution=size, fit=self._config.fit, skip_broken=self._config.skip_broken)
            images, _ = choose_real(data, self._config.evaluate_count, seed=self._config.seed)
            self._real = {size: (measure(real_batches(images), self._network)[0], digest_of(images))}
        return self._real[size]

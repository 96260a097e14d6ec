"""The FID of the averaged generator while it trains, and the step at which it was best."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from fastgan.data import open_dataset
from fastgan.metrics.cache import digest_of
from fastgan.metrics.features import Features, load_features
from fastgan.metrics.frechet import frechet_distance
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.judging import choose_real, generated_batches, labels_like, look_at, real_batches

_OF_DATA = {"digits": "digits", "gaussians": "points"}


class Best(NamedTuple):
    """The lowest FID of a run so far.

    Attributes:
        step: of the checkpoint that has it.
        fid: the distance.
        basis: what it stands on; another distance is only compared where that is the same.
    """

    step: int
    fid: float
    basis: str

    @classmethod
    def of_state(cls, found: Any) -> Self:
        """Reads what a checkpoint holds.

        Raises:
            ValueError: for what is no such record; one sentence.
        """
        types = {"step": int, "fid": float, "basis": str}
        if (
            not isinstance(found, dict)
            or found.keys() != types.keys()
            or any(type(found[name]) is not kind for name, kind in types.items())
            or not (found["step"] >= 0 and math.isfinite(found["fid"]))
        ):
            raise ValueError("best is no record of a step and its FID")
        return cls(**found)


class FidTracker:
    """Measures the averaged generator of a run against its data.

    Args:
        config: the settings of the run; nothing is loaded where ``evaluate_every`` is 0.
        device: where the feature network runs.
        best: from the checkpoint that the run goes on from, or None.

    Raises:
        SettingsError, DataError, MetricsError: for settings that do not go together, or images that the features do not
            take; one sentence.
    """

    def __init__(self, config: TrainingConfig, device: torch.device, best: Best | None = None) -> None:
        self.best = best
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
            if config.data not in _OF_DATA:
                raise SettingsError(
                    f"evaluate_features is 'auto', and there are none for {config.data!r}; expected digits (of grey "
                    "images) or inception"
                )
            name = _OF_DATA[config.data]
        self._network = load_features(name, device)
        self._features_of_real(config.resolution)

    def measure(self, generator: nn.Module, step: int) -> tuple[float, bool]:
        """The FID of ``evaluate_count`` images against as many real ones, and whether it is the best so far.

        The latents are the same each time.

        Raises:
            MetricsError: for images with values that are not finite; one sentence.
        """
        config, count = self._config, self._config.evaluate_count
        labels = labels_like(None, generator, count)
        batches = generated_batches(generator, count, seed=config.seed, labels=labels)
        generated = look_at(batches, self._network, None)
        size = generated.shown.shape[-1]
        real, digest = self._features_of_real(size)
        fid = frechet_distance(real.values, generated.features.values)
        basis = (
            f"{self._network.name} {self._network.digest[:12]}, {size}x{size}, {count} images, real ones {digest[:12]}"
        )
        improved = self.best is None or self.best.basis != basis or fid < self.best.fid
        if improved:
            self.best = Best(step, fid, basis)
        return fid, improved

    def _features_of_real(self, size: int) -> tuple[Features, str]:
        """Of the real images at the size of the generated ones, which grows where networks grow, with their digest."""
        if size not in self._real:
            data = open_dataset(self._config.data, resolution=size)
            images, _ = choose_real(data, self._config.evaluate_count, seed=self._config.seed)
            self._real = {size: (look_at(real_batches(images), self._network, None).features, digest_of(images))}
        return self._real[size]

"""Feature networks for comparing images. Each score is reported with the name of its network."""

import copy
import hashlib
import inspect
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.data import normalize
from fastgan.data.gaussians import CENTERS, are_points, to_points
from fastgan.errors import first_line
from fastgan.extras import import_function
from fastgan.metrics import MetricsError
from fastgan.metrics.digits import NUM_CLASSES, RESOLUTION, WEIGHTS, digit_inputs, digit_network
from fastgan.metrics.modes import nearest_mode
from fastgan.metrics.shares import Shares
from fastgan.random_state import preserved_random_state

CHOICES = "'digits', 'points', 'inception', a TorchScript file, or module:function"


class Features(NamedTuple):
    """Features of images, and class logits.

    Attributes:
        values: float32 [N, F], finite, on the CPU.
        logits: float32 [N, K], or None for a network without classes.
    """

    values: Tensor
    logits: Tensor | None

    def at(self, indices: Tensor) -> "Features":
        """The features of the images at ``indices``."""
        return Features(self.values[indices], None if self.logits is None else self.logits[indices])


class Classes(NamedTuple):
    """Classes of images that their features decide: what they are, in the plural, their names, and a function that maps
    features to class indices, int64 [N], or -1 for no class."""

    kind: str
    names: tuple[str, ...]
    classify: Callable[[Features], Tensor]

    def count(self, features: Features) -> list[int]:
        """The number of images per class."""
        return (self.classify(features) + 1).bincount(minlength=len(self.names) + 1)[1:].tolist()


_DIGITS = Classes("digits", tuple(map(str, range(NUM_CLASSES))), lambda features: features.logits.argmax(dim=1))
_MODES = Classes("modes", tuple(f"({x:g}, {y:g})" for x, y in CENTERS), lambda features: nearest_mode(features.values))


@dataclass(frozen=True)
class FeatureNetwork:
    """A function from images to features, with the name and digest that scores are reported with.

    Attributes:
        name: ``digits``, ``points``, ``inception``, the name of a TorchScript file, or ``module:function``.
        digest: SHA-256 of the weights or the file; for a function, of its source file.
        filter: how images are resized to the network's size.
        determined: whether the digest determines the features; False for a function, which may use other files.
        classes: the classes by which mode collapse shows; None except for digits and points.
    """

    name: str
    digest: str
    filter: str
    _extract: Callable[[Tensor], Any]
    determined: bool = True
    classes: Classes | None = None

    def shares(self, real: Features, generated: Features) -> Shares | None:
        """The shares of the classes among real and generated images; None without classes."""
        if self.classes is None:
            return None
        kind, names, _ = self.classes
        counts = (self.classes.count(features) for features in (real, generated))
        return Shares(kind, names, *counts, len(real.values), len(generated.values))

    @preserved_random_state()
    def __call__(self, images: Tensor) -> Features:
        """Computes the features of a batch of images.

        Args:
            images: uint8 [N, C, S, S], or points of the plane as floating-point images [N, 2, 1, 1]; N at least 1.
        """
        try:
            found = self._extract(images)
        except MetricsError:
            raise
        except Exception as error:
            # A user's file or function may raise any type for images that it does not take.
            raise MetricsError(
                f"features {self.name!r} fail on images of shape {list(images.shape)}: {_last_line(error)}"
            ) from error
        values, logits = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        checked = self._checked(values, len(images), "features")
        return Features(checked, None if logits is None else self._checked(logits, len(images), "class logits"))

    def _checked(self, values: Any, count: int, what: str) -> Tensor:
        if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != count or values.shape[1] == 0:
            found = f"of shape {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise MetricsError(f"features {self.name!r} give {what} {found} for {count} images, expected [{count}, F]")
        if not values.is_floating_point():
            raise MetricsError(f"features {self.name!r} give {what} of {values.dtype}, expected a floating-point type")
        values = values.detach().float().cpu()
        if not values.isfinite().all():
            raise MetricsError(f"features {self.name!r} give {what} that are infinite or not a number")
        return values


@preserved_random_state()
def load_features(
    name: str | Callable[[Tensor], Any], device: torch.device, *, weights: Path | None = None
) -> FeatureNetwork:
    """Loads a feature network by name, or wraps a Python function as one.

    - ``digits``: the bundled network, fitted to scikit-learn's handwritten digits; for images of one channel; 64
      features, 10 classes.
    - ``points``: the coordinates of points of the plane; 2 features.
    - ``inception``: the published Inception network of the FID through torch-fidelity, which is an extra; gray images
      are repeated to three channels; 2048 features, 1008 classes.
    - A TorchScript file, called with uint8 images [N, C, S, S] on ``device``, not resized; it returns floating-point
      features [N, F], or a tuple of features and class logits [N, K].
    - ``module:function``: a Python callable with the same arguments and results, on the CPU. The module is imported,
      which runs its code.

    Args:
        name: one of these names, or a callable like that of ``module:function``.
        device: device of the networks.
        weights: for ``inception`` only, the file that torch-fidelity would download.
    """
    if callable(name):
        return _function(f"{name.__module__}:{getattr(name, '__qualname__', type(name).__qualname__)}", name)
    if weights is not None and name != "inception":
        raise MetricsError(f"weights are given for features {name!r}; expected them only for 'inception'")
    if name == "digits":
        return _digits(device)
    if name == "points":
        return FeatureNetwork("points", hashlib.sha256(b"points").hexdigest(), "none", _coordinates, classes=_MODES)
    if name == "inception":
        from fastgan.metrics.inception import load_inception

        network, digest = load_inception(weights, device)
        return FeatureNetwork("inception", digest, "bilinear to 299x299, as TensorFlow 1", network)
    # Checked before module:function, since a file may have a colon in its name.
    if Path(name).is_file():
        return _torchscript(Path(name), device)
    if ":" in name:
        return _function(name, import_function("features", name, MetricsError))
    raise MetricsError(f"unknown features {name!r}; choose from {CHOICES}")


def _digits(device: torch.device) -> FeatureNetwork:
    network = copy.deepcopy(digit_network()).to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] != 1 or images.shape[-1] < 8:
            raise MetricsError(
                f"features 'digits' take images of one channel and at least 8x8, and these are {_size(images)}; choose "
                "others with --features"
            )
        return network(digit_inputs(images).to(device))

    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    filter = f"bicubic to {RESOLUTION}x{RESOLUTION}, antialiased"
    return FeatureNetwork("digits", digest, filter, extract, classes=_DIGITS)


def _coordinates(images: Tensor) -> Tensor:
    if not are_points(images):
        raise MetricsError(f"features 'points' take points of the plane, and these are {_size(images)}")
    return to_points(normalize(images) if images.dtype == torch.uint8 else images)


def _torchscript(path: Path, device: torch.device) -> FeatureNetwork:
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            # TorchScript is deprecated, but published feature networks have this format.
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated")
            # Loaded from the bytes of the digest, in case the file changes meanwhile.
            network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except OSError as error:
        raise MetricsError(f"TorchScript file {str(path)!r} cannot be read: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:
        raise MetricsError(f"file {str(path)!r} is not a TorchScript file: {first_line(error)}") from None

    @torch.inference_mode()
    def extract(images: Tensor) -> Any:
        return network(images.to(device))

    return FeatureNetwork(path.name, hashlib.sha256(content).hexdigest(), "none", extract)


def _function(name: str, extract: Callable[[Tensor], Any]) -> FeatureNetwork:
    try:
        source = Path(inspect.getfile(sys.modules[extract.__module__])).read_bytes()
    except (TypeError, OSError, KeyError):
        source = name.encode()
    digest = hashlib.sha256(source).hexdigest()
    return FeatureNetwork(name, digest, "none", torch.inference_mode()(extract), determined=False)


def _size(images: Tensor) -> str:
    channels = images.shape[1]
    return (
        f"images of {channels} channel{'s' if channels != 1 else ''} and {images.shape[-2]}x{images.shape[-1]} pixels"
    )


def _last_line(error: Exception) -> str:
    """The last line of a message: TorchScript puts its traceback first."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__

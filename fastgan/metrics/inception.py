"""The published Inception network of the FID, through torch-fidelity."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fastgan.errors import first_line
from fastgan.extras import install_command
from fastgan.metrics import MetricsError

_OUTPUTS = ["2048", "logits_unbiased"]


def load_inception(weights: Path | None, device: torch.device) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], str]:
    """Loads the Inception network of 2015, which defines the FID, as torch-fidelity converted it.

    ``weights`` is ``weights-inception-2015-12-05-6726825d.pth`` or a file with the same keys; None downloads it to
    torch's hub folder.

    Returns:
        A function from uint8 images [N, C, S, S], C 1 or 3, to features [N, 2048] and logits [N, 1008] without bias, as
        in torch-fidelity's Inception Score; and the SHA-256 of the weights.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        raise MetricsError(
            f"features 'inception' need torch-fidelity, which cannot be imported ({first_line(error)}); install it "
            f"with {install_command('evaluation')}, beside the torchvision of your build of torch, or choose other "
            "--features"
        ) from error
    if weights is not None:
        _require_tensors(weights)
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", _OUTPUTS, feature_extractor_weights_path=None if weights is None else str(weights)
        ).to(device)
    except (OSError, RuntimeError) as error:
        if weights is None:
            what = "the weights of Inception cannot be downloaded"
        else:
            what = f"file {str(weights)!r} does not hold the weights of Inception"
        raise MetricsError(f"{what} ({first_line(error)}); give the published file with --weights") from error

    @torch.inference_mode()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] not in (1, 3):
            raise MetricsError(
                f"features 'inception' take gray or RGB images, and these have {images.shape[1]} channels"
            )
        features, logits = network(images.to(device).expand(-1, 3, -1, -1))
        return features, logits

    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return extract, digest.hexdigest()


def _require_tensors(path: Path) -> None:
    """Refuses a file with objects other than tensors: torch-fidelity unpickles the file, which could run code."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file of another format
        raise MetricsError(f"file {str(path)!r} does not hold the weights of Inception ({first_line(error)})") from None
    if not isinstance(weights, dict):
        raise MetricsError(f"file {str(path)!r} holds a {type(weights).__name__}, expected the weights of Inception")

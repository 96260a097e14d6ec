"""The largest singular values of a model's weights: the check of spectral normalisation."""

import torch
from torch import Tensor, nn

from fastgan.nn.spectral_norm import NORMALISED_LAYERS, TRANSPOSED


@torch.no_grad()
def largest_singular_values(model: nn.Module) -> dict[str, Tensor]:
    """The largest singular value of the weight of every convolution, linear layer and embedding, normalised or not.

    A layer that :func:`fastgan.nn.spectral_norm` or torch's normalises has 1, up to what power iteration has not found
    yet: u^T W v is at most the largest singular value, so that this is 1 or more. The Frobenius norm of such a weight
    is the root of the sum of the squares of all singular values, and more than 1 unless all others are zero.

    It is that of the matrix which spectral normalisation works on, output channels by all the rest (Miyato et al. 2018,
    https://arxiv.org/abs/1802.05957, section 2.1). The Lipschitz constant of a convolution as a map of images may be
    larger, by at most the root of how many windows share a pixel: 2 for 4x4 with stride 2.

    Args:
        model: u and v do not move, and nothing else does.

    Returns:
        Scalars on the device of each weight, float32 (float64 for float64), by the names of the layers; that of
        ``model`` itself is "".
    """
    values = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, NORMALISED_LAYERS):
            continue
        # A parametrization in training mode moves its vectors when the weight is read.
        training = {module: module.training for module in layer.modules()}
        layer.eval()
        try:
            weight = layer.weight
        finally:
            for module, mode in training.items():
                module.training = mode
        if weight.dtype != torch.float64:
            weight = weight.float()
        rows_first = weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else weight
        values[name] = torch.linalg.matrix_norm(rows_first.flatten(1), ord=2)
    return values

"""The largest singular values of a model's weights: the check of spectral normalization."""

import torch
from torch import Tensor, nn

from fastgan.nn.spectral_norm import NORMALIZED_LAYERS, TRANSPOSED


@torch.no_grad()
def largest_singular_values(model: nn.Module) -> dict[str, Tensor]:
    """The largest singular value of the weight of every convolution, linear layer and embedding, normalized or not.

    It is 1 for a layer with spectral normalization, ours or torch's, after convergence of the power iteration. Before,
    it is more, because u^T W v is at most the largest singular value. The Frobenius norm of such a weight is the root
    of the sum of the squares of all singular values, so it is more than 1 unless all others are zero.

    The matrix is that of spectral normalization, output channels by all other axes (Miyato et al. 2018,
    https://arxiv.org/abs/1802.05957, section 2.1). The Lipschitz constant of a convolution of images may be larger, by
    at most the root of the number of windows that share a pixel: 2 for 4x4 with stride 2.

    Args:
        model: not changed; u and v do not move.

    Returns:
        Scalars on the device of each weight, float32 (float64 for float64), by the names of the layers ("" for
        ``model`` itself).
    """
    values = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, NORMALIZED_LAYERS):
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

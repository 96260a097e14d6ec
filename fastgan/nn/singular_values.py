"""The largest singular values of a model's weights, to check spectral normalization."""

import torch
from torch import Tensor, nn

from fastgan.nn.spectral_norm import NORMALIZED_LAYERS, TRANSPOSED


@torch.no_grad()
def largest_singular_values(model: nn.Module) -> dict[str, Tensor]:
    """The largest singular value of the weight of every convolution, linear layer and embedding, normalized or not.

    It is 1 for a layer with spectral normalization, fastgan's or torch's, once the power iteration has converged.
    Before, it is larger, because u^T W v is at most the largest singular value. The Frobenius norm of such a weight is
    the root of the sum of all squared singular values, so it exceeds 1 unless all others are zero.

    The matrix is that of spectral normalization, output channels by all other axes (Miyato et al. 2018,
    https://arxiv.org/abs/1802.05957, section 2.1). The Lipschitz constant of a convolution may be larger, by a factor
    of at most the root of the number of windows that share a pixel: 2 for 4x4 with stride 2.

    Args:
        model: the model, which is not changed, nor are u and v.

    Returns:
        Scalars by layer name ("" for ``model`` itself), on the device of each weight, float32 (float64 for float64).
    """
    values = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, NORMALIZED_LAYERS):
            continue
        # A parametrization in training mode updates u and v when the weight is read.
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

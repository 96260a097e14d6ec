"""Batch normalization with a scale and shift for each class."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalization with the scale and shift of each sample's class.

    Dumoulin et al. 2017 (https://arxiv.org/abs/1610.07629, section 2.2, for instance normalization) and de Vries et al.
    2017 (https://arxiv.org/abs/1707.00683). Scales start at 1 and shifts at 0, as in the generators of Miyato and
    Koyama 2018 (https://arxiv.org/abs/1802.05637).

    The statistics are those of :class:`torch.nn.BatchNorm2d`, over the batch of all classes: of the batch in training,
    running averages in evaluation.

    Args:
        num_features: C.
        num_classes: K, of the labels 0 to K - 1.
        eps, momentum: as of :class:`torch.nn.BatchNorm2d`.

    Shape:
        x [N, C, H, W] and labels, int64 [N], to [N, C, H, W] of the type of x. ``weight`` and ``bias`` are [K, C].
    """

    def __init__(self, num_features: int, num_classes: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, eps, momentum, affine=False)
        self.weight = nn.Parameter(torch.ones(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        normal = self.norm(x)
        scale, shift = (embedding(labels, table).to(x.dtype)[:, :, None, None] for table in (self.weight, self.bias))
        return torch.addcmul(shift, scale, normal)

"""The last layer of a conditional discriminator."""

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """The logit of features f with label y: ``linear(f) + <embedding(y), f>``.

    Miyato and Koyama 2018 (https://arxiv.org/abs/1802.05637), eq. 4. Both layers are normalized by
    :func:`fastgan.nn.spectral_norm_`, as in the paper.

    Args:
        in_features: F.
        num_classes: K; labels are 0 to K - 1.

    Shape:
        features [N, F] and labels, int64 [N], to [N, 1].
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        self.embedding = nn.Embedding(num_classes, in_features)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.linear(features) + (self.embedding(labels) * features).sum(1, keepdim=True)

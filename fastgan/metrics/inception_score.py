"""The Inception Score."""

from torch import Tensor


def inception_score(logits: Tensor) -> float:
    """The score of Salimans et al. 2016 (https://arxiv.org/abs/1606.03498, section 4), over all images in one split.

    The exponential of the mean Kullback-Leibler divergence between the class probabilities of an image and those of all
    images: high if each image clearly belongs to one class, and the classes are many.

    Args:
        logits: class logits, floating-point [N, K]; computed in float64.

    Returns:
        The score, in [1, K].
    """
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    return (p * (log_p - p.mean(dim=0).log())).nan_to_num(nan=0.0).sum(dim=1).mean().exp().item()

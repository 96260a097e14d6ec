"""Which digit an image shows: a classifier fitted on the bundled handwritten digits, as a judge of generated ones."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

NUM_CLASSES = 10

# scikit-learn's pixels count the dark points, at most 16, of a cell of 4x4.
_LARGEST = 16


@dataclass(frozen=True)
class DigitClassifier:
    """A support vector machine on 8x8 digits, as in scikit-learn's own example ("Recognizing hand-written digits").

    It knows no other answer than a digit, so it says which classes samples cover, and nothing of how good they look.

    Attributes:
        accuracy: on the quarter of the real digits that it was not fitted on; 0.991.
    """

    accuracy: float
    _machine: object

    def __call__(self, images: Tensor) -> Tensor:
        """The digit in each image.

        Args:
            images: [N, 1, S, S] in [-1, 1], light strokes on dark, S at least 8; reduced to 8x8 by averaging areas.

        Returns:
            int64 [N], from 0 to 9, on the CPU.

        Raises:
            ValueError: for another shape; one sentence.
        """
        if images.dim() != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3] or images.shape[2] < 8:
            raise ValueError(f"digits have shape {list(images.shape)}, expected [N, 1, S, S] with S at least 8")
        cells = (adaptive_avg_pool2d(images.detach().float().cpu(), 8).flatten(1) + 1) * (_LARGEST / 2)
        return torch.from_numpy(self._machine.predict(cells.numpy().astype(np.float64)))


@functools.cache
def digit_classifier() -> DigitClassifier:
    """Fits the classifier, the same at every call; it takes a tenth of a second."""
    # scikit-learn takes seconds to import.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    digits = load_digits()
    x, held_out, y, truth = train_test_split(
        digits.data, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    # Fitting draws a seed, though nothing depends on it: with none given, from numpy's global generator.
    machine = SVC(gamma=0.001, random_state=0).fit(x, y)
    return DigitClassifier(machine.score(held_out, truth), machine)

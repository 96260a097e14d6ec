"""The bundled default: scikit-learn's handwritten digits."""

import numpy as np


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 real handwritten digits, uint8 [1797, 1, 8, 8], and their classes 0..9, int64 [1797].

    Light strokes on a dark background, as in MNIST. Each stored value counts the dark pixels (0..16) of a 4x4 cell of
    the scanned bitmap and is scaled to 0..255. Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998 (its test part), as carried by scikit-learn.
    """
    # scikit-learn takes seconds to import, and only this source needs it.
    from sklearn.datasets import load_digits as load_bundled

    bundled = load_bundled()
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
    return images[:, None], bundled.target.astype(np.int64)

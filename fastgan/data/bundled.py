"""The bundled data sets: scikit-learn's digits and photographs, and points of the plane."""

import numpy as np
from PIL import Image

from fastgan.data.gaussians import load_gaussians


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


def load_photos() -> tuple[np.ndarray, np.ndarray]:
    """2,754 crops of two photographs in color, uint8 [2754, 3, 64, 64], and the photograph of each, int64 [2754].

    The photographs are a Chinese temple (class 0) and a flower (1), 640x427 each, reduced to a third; a crop begins at
    every third pixel. Source: "china.jpg" by danielbuechele and "flower.jpg" by vultilion on Flickr, CC BY 2.0, as
    carried by scikit-learn.
    """
    from sklearn.datasets import load_sample_images

    crops = []
    for photo in load_sample_images().images:
        small = np.asarray(Image.fromarray(photo).reduce(3))
        crops.append(np.lib.stride_tricks.sliding_window_view(small, (64, 64), (0, 1))[::3, ::3].reshape(-1, 3, 64, 64))
    return np.concatenate(crops), np.repeat(np.arange(2), list(map(len, crops)))


BUNDLED = {"digits": load_digits, "gaussians": load_gaussians, "photos": load_photos}

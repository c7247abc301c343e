"""Natural photographs that other packages ship, each free to use.

| name | from | source | licence |
| --- | --- | --- | --- |
| chelsea | scikit-image | a cat, by Stefan van der Walt | CC0 |
| coffee | scikit-image | a cup of espresso, by Rachel Michetti | CC0 |
| rocket | scikit-image | Falcon 9 carrying DSCOVR, by SpaceX | public domain |
| astronaut | scikit-image | Eileen Collins, by NASA | public domain |
| china | scikit-learn | a Chinese palace, by danielbuechele on Flickr | CC BY 2.0 |
| flower | scikit-learn | a dahlia, by vultilion on Flickr | CC BY 2.0 |
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

SKIMAGE = ("chelsea", "coffee", "rocket", "astronaut")
SKLEARN = ("china", "flower")
NAMES = SKIMAGE + SKLEARN


def photographs(names: Sequence[str] = NAMES) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """Read photographs by name, RGB.

    Args:
        names: Some of `NAMES`; a package is imported only for a photograph of its own.

    Raises:
        ValueError: For an unknown name.
        ImportError: If the package that ships a photograph is not installed.

    Example:
        >>> {name: pixels.shape for name, pixels in photographs(["chelsea", "coffee"]).items()}
        {'chelsea': (300, 451, 3), 'coffee': (400, 600, 3)}
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"there is no photograph {unknown[0]!r}, expected some of {', '.join(NAMES)}")
    return {name: _from_skimage(name) if name in SKIMAGE else _from_sklearn(name) for name in names}


def _from_skimage(name: str) -> np.ndarray:
    try:
        from skimage import data
    except ImportError:
        raise ImportError(f"the photograph {name} needs scikit-image: pip install 'sparks-jax[demo]'") from None
    return np.asarray(getattr(data, name)())


def _from_sklearn(name: str) -> np.ndarray:
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise ImportError(f"the photograph {name} needs scikit-learn: pip install 'sparks-jax[demo]'") from None
    return np.asarray(load_sample_image(f"{name}.jpg"))

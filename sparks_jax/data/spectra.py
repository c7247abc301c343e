"""Magnitude spectra from files, such as the one that the public MACO codes come with."""

from pathlib import Path

import numpy as np
from jaxtyping import Float


def read_spectrum(path: str | Path) -> Float[np.ndarray, "h w_half c"]:
    """Read a half spectrum from a `.npy` file, channels last: what `featviz.Spectrum.from_array` takes.

    A shortest first axis holds the channels, as in the published `(3, 512, 257)`; a plane has one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no array of numbers with two or three axes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/spectrum.npy", np.ones((3, 8, 5)))
        ...     read_spectrum(f"{folder}/spectrum.npy").shape
        (8, 5, 3)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"cannot read a spectrum from {path}: {error}; expected what numpy.save writes") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        found = f"shape {array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"{path} holds {found}, expected one spectrum (c, h, w // 2 + 1) or (h, w // 2 + 1)")
    array = array[..., None] if array.ndim == 2 else array
    channels_first = array.shape[0] < min(array.shape[1:])
    return np.moveaxis(array, 0, -1).astype(np.float32) if channels_first else array.astype(np.float32)

"""Whether the bounds under a map say anything about the network: vacuous ones are told, not drawn."""

from typing import Any

import numpy as np

from sparks_jax.attribution import gradient
from sparks_jax.jobs.explain import explain
from sparks_jax.scores import margin

# A region is worth at most what all pixels are. Bounds that make it this much more than the slope does are an artefact
# of their own growth (intervals through undefended deep networks: ten orders of magnitude), and bounds that make every
# region this much less have saturated.
LARGEST, LEAST = 100.0, 1e-4


def check_bounds(
    maps: np.ndarray, radius: float, model: Any, images: np.ndarray, labels: np.ndarray, **common: Any
) -> None:
    r"""Refuse maps of EVA that rest on vacuous bounds, measured against the slope of the margin.

    $10^{-4} < \max_u \phi_u \,/\, (r\, \|\nabla (z_c - \max_{j \ne c} z_j)\|_1) < 100$ in the median image

    Args:
        maps: `(n h w)`.
        radius: How far each pixel may move.
        model: As in `explain`.
        images: As in `explain`.
        labels: As in `explain`.
        **common: The key, the mesh and the chunk, as in `explain`.

    Raises:
        ValueError: One sentence about the bounds.

    Example:
        >>> model, images = lambda x: x.reshape(len(x), -1), np.ones((1, 1, 2, 1), np.float32)
        >>> check_bounds(np.full((1, 1, 2), 1e9), 0.5, model, images, np.array([0]), key=jax.random.key(0))
        Traceback (most recent call last):
        ValueError: its bounds are vacuous on this network: they make one region worth 1e+09 of the lead, where ...
    """
    slopes = explain(gradient, model, images, labels, score=margin, **common)
    promised = radius * np.abs(np.asarray(slopes, np.float64)).sum((1, 2, 3))
    worth = np.asarray(maps, np.float64).max((1, 2))
    share = np.median(worth[promised > 0] / promised[promised > 0]) if (promised > 0).any() else 1.0
    instead = "use eva_hybrid, which samples, a smaller radius, or a network that was trained for bounds"
    if share < LEAST:
        raise ValueError(f"its bounds are vacuous on this network: they are the same whatever is fixed; {instead}")
    if not share < LARGEST:
        raise ValueError(
            f"its bounds are vacuous on this network: they make one region worth {np.median(worth):.2g} of the lead, "
            f"where the slope makes all pixels together worth {np.median(promised):.2g}; {instead}"
        )

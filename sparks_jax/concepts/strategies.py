r"""Strategies: the ways in which a class is recognised, from how much each concept matters to each image."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Strategies(NamedTuple):
    """Each image by the concept that matters most to it.

    Attributes:
        main: `(n)` that concept.
        prevalence: `(k)` share of the images whose main concept it is.
        prevalence_interval: `(2 k)` Wilson's interval of it.
        reliability: `(k)` share of those images that are classified correctly; NaN where there is no image.
        reliability_interval: `(2 k)` Wilson's interval of it; 0 and 1 where there is no image.
    """

    main: Int[Array, " n"]
    prevalence: Float[Array, " k"]
    prevalence_interval: Float[Array, "2 k"]
    reliability: Float[Array, " k"]
    reliability_interval: Float[Array, "2 k"]


def strategies(
    importances: Float[Array, "n k"], correct: Bool[Array, " _"] | None = None, *, level: float = 0.95
) -> Strategies:
    r"""By which concept is each image recognised, how often is that so, and how often is it right?

    $\mathrm{prevalence}_k = \frac1n |\{i : \arg\max_j \phi_{ij} = k\}|$, and the accuracy among those images

    Args:
        importances: How much each concept matters to each image.
        correct: Whether each image is classified correctly; None: nothing is said of reliability (NaN).
        level: Of the intervals.

    Raises:
        ValueError: If there is not one flag for each image.

    Example:
        >>> found = strategies(jnp.array([[3.0, 1.0], [2.0, 0.0], [0.0, 1.0]]), jnp.array([True, False, True]))
        >>> found.main.tolist(), (3 * found.prevalence).round().tolist(), found.reliability.tolist()
        ([0, 0, 1], [2.0, 1.0], [0.5, 1.0])

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304 (section 5). Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    n, k = importances.shape
    if correct is not None and correct.shape != (n,):
        raise ValueError(f"strategies: correct has shape {correct.shape} for {n} images, expected ({n},)")
    main = importances.argmax(1)
    member = (main[:, None] == jnp.arange(k)[None]).astype(importances.dtype)
    count = member.sum(0)
    prevalence = count / n
    if correct is None:
        right, reliability = jnp.zeros(k), jnp.full(k, jnp.nan, importances.dtype)
        interval = jnp.stack([jnp.zeros(k), jnp.ones(k)])
    else:
        right = (member * correct[:, None]).sum(0)
        reliability = jnp.where(count > 0, right / jnp.where(count > 0, count, 1), jnp.nan)
        interval = wilson(right, count, level=level)
    return Strategies(main, prevalence, wilson(count, jnp.full(k, n), level=level), reliability, interval)


def wilson(successes: Float[Array, " k"], trials: Any, *, level: float = 0.95) -> Float[Array, "2 k"]:
    r"""Wilson's interval of a share: never empty at 0 or 1, and all of [0, 1] without trials.

    $\frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4 n^2}}{1 + z^2 / n}$

    Args:
        successes: How often it happened.
        trials: Out of how many.
        level: Of the interval.

    Example:
        >>> (100 * wilson(jnp.array([0.0, 5.0]), jnp.array([0.0, 10.0]))).round().T.tolist()
        [[0.0, 100.0], [24.0, 76.0]]

    Reference:
        Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    from scipy import stats

    z2 = float(stats.norm.ppf(0.5 + level / 2)) ** 2
    trials = jnp.asarray(trials, successes.dtype)
    n = jnp.where(trials > 0, trials, 1)
    share = successes / n
    middle, half = share + z2 / (2 * n), jnp.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2)))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    # At the ends the formula gives 0 and 1 but for rounding; without trials nothing is known.
    return jnp.stack([jnp.where(successes <= 0, 0, low), jnp.where(successes >= trials, 1, high)])


def strategy_clusters(importances: Float[Any, "n k"], *, min_size: int = 5) -> Int[np.ndarray, " n"]:
    r"""Groups of images that are recognised by the same set of concepts, by HDBSCAN.

    On $\phi_i / \|\phi_i\|$, so that images weigh concepts alike however sure the network is.

    Args:
        importances: How much each concept matters to each image.
        min_size: Images of the smallest group.

    Returns:
        The group of each image, from 0; -1 for those that belong to none.

    Raises:
        ValueError: If there are fewer images than make a group.
        ImportError: Without scikit-learn.

    Example:
        >>> two_ways = np.repeat(np.eye(2), 6, axis=0) + np.linspace(0, 0.05, 12)[:, None]
        >>> strategy_clusters(two_ways).tolist()
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]

    Reference:
        Campello, Moulavi & Sander 2013, Density-based clustering based on hierarchical density estimates. Fel et al.
        2023, arXiv:2306.07304 (section 5).
    """
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError:
        raise ImportError("strategy_clusters needs scikit-learn: pip install 'sparks-jax[demo]'") from None
    rows = np.asarray(importances, np.float64)
    if not 2 <= min_size <= len(rows):
        raise ValueError(f"strategy_clusters: min_size is {min_size}, expected 2 … {len(rows)}, the number of images")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    options: dict[str, Any] = dict(min_cluster_size=min_size, copy=True)
    return HDBSCAN(**options).fit_predict(rows / np.where(norms > 0, norms, 1))

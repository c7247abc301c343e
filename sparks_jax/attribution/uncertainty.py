"""How sure a sampled map is: standard errors by replication, and sampling until the ranking of the regions is stable.

Both take any method `(f, x, *, key, …)` and repeat it with independent keys, which is right for points that are
independent and for points that are not: the rows of one scrambled Sobol' design depend on each other, two designs with
two keys do not (randomised quasi-Monte Carlo). What repetition cannot see is a bias that every replicate shares, as
that of a Sobol' index at 32 rows or of a map on a coarse grid.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax import images, sensitivity, stream
from sparks_jax.images import for_images
from sparks_jax.types import Image, Scalar, Score

Map = Float[Array, "..."]
Vectors = Float[Array, "k n"]


class Estimate(NamedTuple):
    """A map and how sure it is.

    Attributes:
        map: Mean of the replicates.
        stderr: Standard error of `map` in each pixel.
        evaluations: `()` evaluations of the score, all replicates together.
    """

    map: Map
    stderr: Map
    evaluations: Int[Array, ""]


class Stable(NamedTuple):
    """A map sampled until its ranking was stable.

    Attributes:
        map: Mean of the replicates.
        stderr: Standard error of `map` in each pixel.
        evaluations: `()` evaluations of the score, all replicates together.
        replicates: `()` how many replicates there were.
        tau: `()` the agreement reached; below the one asked if `max_replicates` ended the sampling.
    """

    map: Map
    stderr: Map
    evaluations: Int[Array, ""]
    replicates: Int[Array, ""]
    tau: Scalar


@for_images
def replicate(
    method: Callable[..., Map],
    f: Score,
    x: Image,
    *,
    key: PRNGKeyArray,
    num_replicates: int = 8,
    chunk: int = 16,
    **options: Any,
) -> Estimate:
    r"""A sampled map with its standard error: the mean of independent replicates of any method that takes a key.

    $\bar\phi = \frac1R \sum_r \phi^{(r)}, \qquad
    \widehat{\mathrm{se}}^2 = \frac{1}{R (R - 1)} \sum_r (\phi^{(r)} - \bar\phi)^2$ in each pixel

    No evaluation is lost: the mean is as good a map as R times the samples give, where the method has no bias that more
    samples in one run would have removed. With R replicates the standard error is itself known to
    $1 / \sqrt{2 (R - 1)}$, 27 % at 8. For Sobol' indices one run has a standard error at no evaluation, the bootstrap
    of `sensitivity.sobol_indices` (see `masked_score`): that one takes the rows of the design for independent, and so
    reports too much of a scrambled sequence, whereas this one measures it. Memory does not grow with R.

    Cost: `num_replicates` times the method.

    Args:
        method: `(f, x, *, key, …) -> map`.
        f: The score.
        x: One image.
        key: Replicate r draws from `fold_in(key, r)`.
        num_replicates: R, at least 2.
        chunk: Given to the method, if it takes one: evaluations at once.
        **options: Given to the method.

    Returns:
        `Estimate(map, stderr, evaluations)`.

    Raises:
        ValueError: With fewer than two replicates, or for a method without a key.

    Example:
        >>> from sparks_jax.attribution import vargrad
        >>> f = lambda x: (x**2).sum() / 2  # the gradient is x, its variance that of the noise
        >>> e = replicate(vargrad, f, jnp.ones((8, 8, 1)), key=jax.random.key(0), sigma=1.0, num_samples=16)
        >>> int(e.evaluations), bool(jnp.mean(jnp.abs(e.map - 1) < 2 * e.stderr) > 0.8)
        (128, True)

    Reference:
        L'Ecuyer, Nakayama, Owen & Tuffin 2023, Confidence intervals for randomized quasi-Monte Carlo estimators.
    """
    if num_replicates < 2:
        raise ValueError(f"replicate: num_replicates is {num_replicates}, expected at least 2 for a standard error")
    run = _with_key(method, f, x, chunk, options, "replicate")
    mean, variance = stream.moments_over(lambda r: run(jax.random.fold_in(key, r)), jnp.arange(num_replicates), 1)
    evaluations = num_replicates * _evaluations(method, x, key, chunk, options)
    return Estimate(mean, jnp.sqrt(variance / num_replicates), jnp.asarray(evaluations, jnp.int32))


@for_images
def until_stable(
    method: Callable[..., Map],
    f: Score,
    x: Image,
    *,
    key: PRNGKeyArray,
    tau: float | Float[Array, ""] = 0.9,
    min_replicates: int = 4,
    max_replicates: int = 64,
    num_bootstraps: int = 64,
    cells: int = 14,
    chunk: int = 16,
    **options: Any,
) -> Stable:
    r"""A sampled map, replicate after replicate until its ranking of the regions is stable.

    Stops at the first $R$ with $\frac1B \sum_b \tau(\bar\phi^{*b}, \bar\phi) \ge$ `tau`: Kendall's rank correlation of
    the mean map with means of replicates drawn again from those seen (R - 1 of them, with replacement, which have the
    variance of the mean itself).

    It estimates how well the ranking returned agrees with the one that replicates without end would give. What to know:

    - Noise is not at zero: where replicates have nothing in common, a resampled mean still shares half of its variance
      with the mean, and the agreement is 1/2 instead of 0. From 0.8 on the two are the same to 0.02.
    - It looks after each replicate and stops at the first success, so the agreement at the stop flatters a little:
      asked for 0.9, rankings of 196 regions under noise agreed with the truth by 0.899 on average, those of 49 by
      0.895; asked for 0.8, by 0.788 and 0.784. `min_replicates` keeps two or three lucky ones from satisfying it.
    - Regions are ranked, not pixels: on the map averaged over at most `cells` by `cells` blocks, and over channels by
      `images.heatmap`. Two regions that differ by rounding only are tied, and ties are not counted; a map that is
      constant has nothing to rank and is stable, with agreement 1.

    Under `jax.vmap` each image stops by itself, in the time of the slowest, over devices too (which tell each other
    after each replicate whether all are done). A loop of unknown length has no reverse-mode derivative: train through
    `replicate`.

    Cost: `replicates` times the method, as many as the image needs, at most `max_replicates`; see `evaluations`.

    Args:
        method: `(f, x, *, key, …) -> map`; with few samples, since it is repeated.
        f: The score.
        x: One image.
        key: As in `replicate`, so that with as many replicates the maps are the same.
        tau: Agreement asked for, between 1/2 and 1.
        min_replicates: At least 2.
        max_replicates: At least `min_replicates`; the ranks of so many maps of `cells²` numbers are kept.
        num_bootstraps: Resamplings B; they cost no evaluation.
        cells: Blocks on each side that are ranked, at most; as many as the method's own grid is enough.
        chunk: Given to the method, if it takes one: evaluations at once.
        **options: Given to the method.

    Returns:
        `Stable(map, stderr, evaluations, replicates, tau)`.

    Raises:
        ValueError: Numbers of replicates or an agreement out of range, or a method without a key.

    Example:
        >>> from sparks_jax.attribution import smoothgrad
        >>> f = lambda x: (x * jnp.arange(64.0).reshape(8, 8, 1)).sum()  # its gradient is the same everywhere
        >>> e = until_stable(smoothgrad, f, jnp.ones((8, 8, 1)), key=jax.random.key(0), num_samples=2)
        >>> int(e.replicates), int(e.evaluations), float(e.tau)
        (4, 8, 1.0)

    Reference:
        Efron & Tibshirani 1993, An introduction to the bootstrap; McCarthy & Snowden 1985, The bootstrap and finite
        population sampling (the R - 1 draws); Kendall 1938, A new measure of rank correlation.
    """
    if not 2 <= min_replicates <= max_replicates:
        raise ValueError(
            f"until_stable: min_replicates is {min_replicates} and max_replicates is {max_replicates}, "
            "expected 2 <= min_replicates <= max_replicates"
        )
    if not isinstance(tau, Tracer) and not 0 < tau <= 1:
        raise ValueError(f"until_stable: tau is {tau}, expected an agreement above 0, at most 1")
    run = _with_key(method, f, x, chunk, options, "until_stable")
    like = jax.eval_shape(run, key)
    noise = 8 * float(jnp.finfo(like.dtype).eps)

    def unstable(state: Any) -> Array:
        count, *_, agreement = state
        return (count < min_replicates) | ((count < max_replicates) & (agreement < tau))

    def add(state: Any) -> Any:
        count, mean, m2, seen, _ = state
        phi = run(jax.random.fold_in(key, count)).astype(mean.dtype)
        delta = phi - mean
        mean += delta / (count + 1)
        seen = seen.at[count].set(_regions(phi, cells).ravel())
        key_bootstrap = jax.random.fold_in(key, max_replicates + count)
        agreement = _bootstrap_agreement(seen, count + 1, noise, key_bootstrap, num_bootstraps)
        return count + 1, mean, m2 + delta * (phi - mean), seen, agreement

    zeros = jnp.zeros(like.shape, jnp.promote_types(like.dtype, jnp.float32))
    seen = jnp.zeros((max_replicates, _regions(zeros, cells).size), zeros.dtype)
    # Zeros that belong to the image: mapped over images on an explicit device mesh, a loop must begin as it goes on.
    none = x.ravel()[0] > jnp.inf
    state = (jnp.int32(0), zeros, zeros, seen, jnp.zeros((), zeros.dtype))
    state = jax.tree.map(lambda a: a + none.astype(a.dtype), state)
    count, mean, m2, _, agreement = jax.lax.while_loop(unstable, add, state)
    stderr = jnp.sqrt(m2 / ((count - 1) * count)).astype(like.dtype)
    evaluations = count * _evaluations(method, x, key, chunk, options)
    return Stable(mean.astype(like.dtype), stderr, evaluations, count, agreement)


def _with_key(
    method: Callable[..., Map], f: Score, x: Image, chunk: int, options: dict[str, Any], who: str
) -> Callable[[PRNGKeyArray], Map]:
    """The method as a function of its key."""
    parameters = inspect.signature(method).parameters
    if "key" not in parameters:
        name = getattr(method, "__name__", type(method).__name__)
        raise ValueError(f"{who}: {name} takes no key: it draws no samples, and its map has no error to estimate")
    more = {"chunk": chunk} if "chunk" in parameters else {}
    return lambda key: method(f, x, key=key, **more, **options)


def _evaluations(method: Callable[..., Map], x: Image, key: PRNGKeyArray, chunk: int, options: dict[str, Any]) -> int:
    """Evaluations of one replicate, from its program."""
    return sensitivity.count_evaluations(lambda f: _with_key(method, f, x, chunk, options, "")(key))


def _regions(phi: Map, cells: int) -> Float[Array, "gh gw"]:
    """A map averaged over at most `cells` by `cells` blocks of equal area."""
    phi = images.heatmap(phi) if phi.ndim == 3 else phi
    rows, columns = (jnp.asarray(_blocks(n, min(n, cells)), phi.dtype) for n in phi.shape)
    return jnp.einsum("ah,hw,bw->ab", rows, phi, columns, precision="highest")


def _blocks(length: int, cells: int) -> np.ndarray:
    """The share of each of `length` pixels in the average of each of `cells` equal parts of a side."""
    start, pixel = np.arange(cells)[:, None] * length / cells, np.arange(length)[None, :]
    overlap = np.minimum(start + length / cells, pixel + 1) - np.maximum(start, pixel)
    return np.maximum(overlap, 0) * cells / length


def _bootstrap_agreement(
    seen: Vectors, count: Int[Array, ""], noise: float, key: PRNGKeyArray, num_bootstraps: int
) -> Scalar:
    """Mean rank correlation of the mean of the first `count` rows with resampled means; zero for one row."""
    valid = jnp.arange(len(seen)) < count - 1
    mean = seen.sum(0) / count

    def resampled(key: PRNGKeyArray) -> Scalar:
        rows = jax.random.randint(key, (len(seen),), 0, count)
        weights = jnp.zeros(len(seen), seen.dtype).at[rows].add(valid / jnp.maximum(count - 1, 1))
        return _agreement(jnp.matmul(weights, seen, precision="highest"), mean, noise)

    agreement = stream.mean_over(resampled, jax.random.split(key, num_bootstraps), 16)
    return jnp.where(count > 1, agreement, 0)


def _agreement(v: Float[Array, " n"], reference: Float[Array, " n"], noise: float) -> Scalar:
    """Kendall's rank correlation over the pairs that the reference does not tie; 1 where it ties all of them."""
    there = _order(reference, noise)
    pairs = jnp.abs(there).sum()
    return jnp.where(pairs > 0, (_order(v, noise) * there).sum() / jnp.maximum(pairs, 1), 1)


def _order(v: Float[Array, " n"], noise: float) -> Float[Array, "n n"]:
    """For each pair -1, 0 or 1: which one is larger, by more than rounding."""
    difference = v[:, None] - v[None, :]
    return jnp.where(jnp.abs(difference) > noise * jnp.abs(v).max(), jnp.sign(difference), 0)

r"""The only loops over samples: a scan over chunks, a `vmap` inside each.

Peak memory grows with `chunk`, never with the number of samples, because `mean_over`, `gradient_over`, `moments_over`
and `extremes_over` fold each chunk into what they know so far and `stack_over` keeps what `fn` returns and nothing
else. So let `fn` be handed something light (an index, a key, a small mask) and make the heavy thing (noise, an
upsampled mask) inside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

Samples = PyTree[Any]


class Moments(NamedTuple):
    """Mean and unbiased variance over samples, each with the structure of one output.

    Attributes:
        mean: Mean over samples.
        variance: Unbiased variance over samples (divided by n - 1); zero for one sample.
    """

    mean: Any
    variance: Any


def chunk_size(num_samples: int, chunk: int) -> int:
    """Samples evaluated at once: at most `chunk`, chosen to waste as few evaluations as possible.

    The largest divisor of `num_samples` if it is at least half of `chunk`: nothing is wasted. Otherwise chunks of equal
    size, the last padded by fewer samples than there are chunks.

    Args:
        num_samples: How many samples there are, at least 1.
        chunk: How many may be held at once, at least 1.

    Raises:
        ValueError: If either is not a positive integer.

    Example:
        >>> chunk_size(4000, 64), chunk_size(10, 64), chunk_size(127, 64)
        (50, 10, 64)
    """
    for name, value in (("num_samples", num_samples), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value}")
    chunk = min(chunk, num_samples)
    divisor = next(size for size in range(chunk, 0, -1) if num_samples % size == 0)
    return divisor if 2 * divisor >= chunk else -(-num_samples // -(-num_samples // chunk))


def mean_over(fn: Callable[[Any], Any], xs: Samples, chunk: int) -> Any:
    r"""Mean of `fn` over the leading axis of `xs`.

    $\frac1n \sum_{i=1}^n \mathrm{fn}(x_i)$, summed in at least float32 and returned in the dtype of `fn`.

    Cost: n evaluations of `fn`, rounded up as in `chunk_size`.

    Args:
        fn: From one sample to an array or a pytree of arrays.
        xs: Pytree of arrays with a common leading axis.
        chunk: Samples evaluated at once.

    Example:
        >>> mean_over(lambda x: x**2, jnp.arange(4.0), chunk=3).item()
        3.5
    """
    num_samples, chunks = _chunked(xs, chunk)
    like, zeros = _like(fn, xs)

    def fold(total: Any, part: tuple[Any, Bool[Array, " s"]]) -> tuple[Any, None]:
        samples, valid = part
        return jax.tree.map(lambda t, y: t + _sum(y, valid, t.dtype), total, jax.vmap(fn)(samples)), None

    total, _ = jax.lax.scan(fold, zeros, chunks)
    return jax.tree.map(lambda t, y: (t / num_samples).astype(y.dtype), total, like)


def gradient_over(fn: Callable[[Any, Any], Any], at: Any, xs: Samples, chunk: int) -> tuple[Any, Any]:
    r"""Mean of a number over samples, and its gradient in what the samples share.

    $\frac1n \sum_i \mathrm{fn}(a, x_i)$ and $\frac1n \sum_i \partial_a \mathrm{fn}(a, x_i)$

    One gradient is held, not one for each sample as with the mean of `jax.grad`. It cannot be differentiated again in
    reverse without holding every chunk.

    Cost: n forward and backward evaluations of `fn`, rounded up as in `chunk_size`.

    Args:
        fn: From `at` and one sample to a number.
        at: Pytree of floating-point arrays, $a$.
        xs: Pytree of arrays with a common leading axis.
        chunk: Samples evaluated at once.

    Example:
        >>> value, slope = gradient_over(lambda a, x: a * x, 2.0, jnp.array([1.0, 2.0, 6.0]), chunk=2)
        >>> value.item(), slope.item()
        (6.0, 3.0)
    """
    num_samples, chunks = _chunked(xs, chunk)
    at = jax.tree.map(jnp.asarray, at)
    like, zero = _like(lambda x: fn(at, x), xs)

    def fold(total: Any, part: tuple[Any, Bool[Array, " s"]]) -> tuple[Any, None]:
        samples, valid = part
        summed = lambda at: _sum(jax.vmap(fn, (None, 0))(at, samples), valid, zero.dtype)
        return jax.tree.map(jnp.add, total, jax.value_and_grad(summed)(at)), None

    (value, slope), _ = jax.lax.scan(fold, (zero, jax.tree.map(jnp.zeros_like, at)), chunks)
    return (value / num_samples).astype(like.dtype), jax.tree.map(lambda g: g / num_samples, slope)


def moments_over(fn: Callable[[Any], Any], xs: Samples, chunk: int) -> Moments:
    r"""Mean and unbiased variance of `fn` over the leading axis of `xs`, in one pass.

    Two sets of samples merge by $M_2 = M_2^a + M_2^b + \delta^2\, n_a n_b / (n_a + n_b)$ with
    $\delta = \mu_b - \mu_a$, which is stable where the difference of two large sums of squares is not.

    Args:
        fn: From one sample to an array or a pytree of arrays.
        xs: Pytree of arrays with a common leading axis.
        chunk: Samples evaluated at once.

    Example:
        >>> moments_over(lambda x: x, jnp.array([1.0, 2.0, 3.0, 4.0]), chunk=2).variance.item()
        1.6666666269302368

    Reference:
        Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.
    """
    num_samples, chunks = _chunked(xs, chunk)
    like, zeros = _like(fn, xs)

    def fold(carry: tuple[Array, Any, Any], part: tuple[Any, Bool[Array, " s"]]) -> tuple[Any, None]:
        count, mean, m2 = carry
        samples, valid = part
        here = valid.sum(dtype=jnp.float32)
        ys = jax.vmap(fn)(samples)
        merged = jax.tree.map(lambda y, m, s: _merge(y, valid, here, count, m, s), ys, mean, m2)
        mean, m2 = jax.tree.transpose(jax.tree.structure(like), jax.tree.structure((0, 0)), merged)
        return (count + here, mean, m2), None

    (_, mean, m2), _ = jax.lax.scan(fold, (jnp.float32(0), zeros, zeros), chunks)
    variance = jax.tree.map(lambda s: s / max(num_samples - 1, 1), m2)
    return Moments(*(jax.tree.map(lambda v, y: v.astype(y.dtype), t, like) for t in (mean, variance)))


def extremes_over(fn: Callable[[Any], Any], xs: Samples, chunk: int) -> tuple[Any, Any]:
    r"""The least and the greatest value of each entry of `fn` over the leading axis of `xs`.

    $\min_i \mathrm{fn}(x_i)$ and $\max_i \mathrm{fn}(x_i)$; NaN where any value is.

    Args:
        fn: From one sample to a floating-point array or a pytree of them.
        xs: Pytree of arrays with a common leading axis.
        chunk: Samples evaluated at once.

    Example:
        >>> extremes_over(lambda x: x**2, jnp.array([-3.0, 1.0, 2.0]), chunk=2)
        (Array(1., dtype=float32), Array(9., dtype=float32))
    """
    _, (samples, _) = _chunked(xs, chunk)  # a sample that is repeated changes no extreme
    like, zeros = _like(fn, xs)

    def fold(ends: tuple[Any, Any], part: Any) -> tuple[tuple[Any, Any], None]:
        ys = jax.vmap(fn)(part)
        least = jax.tree.map(lambda end, y: jnp.minimum(end, y.min(0)), ends[0], ys)
        return (least, jax.tree.map(lambda end, y: jnp.maximum(end, y.max(0)), ends[1], ys)), None

    start = (jax.tree.map(lambda z: z + jnp.inf, zeros), jax.tree.map(lambda z: z - jnp.inf, zeros))
    ends, _ = jax.lax.scan(fold, start, samples)
    least, greatest = (jax.tree.map(lambda end, y: end.astype(y.dtype), tree, like) for tree in ends)
    return least, greatest


def stack_over(fn: Callable[[Any], Any], xs: Samples, chunk: int) -> Any:
    """Every value of `fn` over the leading axis of `xs`, stacked: for estimators that need them all.

    Args:
        fn: From one sample to a small array (a scalar, typically) or a pytree of them.
        xs: Pytree of arrays with a common leading axis.
        chunk: Samples evaluated at once.

    Example:
        >>> stack_over(lambda x: 2 * x, jnp.arange(3.0), chunk=2)
        Array([0., 2., 4.], dtype=float32)
    """
    num_samples, (samples, _) = _chunked(xs, chunk)
    ys = jax.lax.map(jax.vmap(fn), samples)
    return jax.tree.map(lambda y: y.reshape(y.shape[0] * y.shape[1], *y.shape[2:])[:num_samples], ys)


def _chunked(xs: Samples, chunk: int) -> tuple[int, tuple[Samples, Bool[Array, "c s"]]]:
    """Cut the leading axis into equal chunks; the last repeats its last sample where it is short, marked invalid."""
    num_samples = jax.tree.leaves(xs)[0].shape[0]
    size = chunk_size(num_samples, chunk)
    index: Int[Array, "c s"] = jnp.arange(-(-num_samples // size) * size).reshape(-1, size)
    samples = jax.tree.map(lambda x: x[jnp.minimum(index, num_samples - 1)], xs)
    return num_samples, (samples, index < num_samples)


def _like(fn: Callable[[Any], Any], xs: Samples) -> tuple[Any, Any]:
    """What `fn` returns, as shapes, and zeros to sum it in: at least float32."""
    like = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], xs))
    # Reshaped, because a scalar made as one is a constant outside of any mesh, with which no loop over an explicit mesh
    # can begin (jax 0.10.1).
    zeros = lambda y: jnp.zeros((1, *y.shape), jnp.promote_types(y.dtype, jnp.float32)).reshape(y.shape)
    return like, jax.tree.map(zeros, like)


def _sum(ys: Array, valid: Array, dtype: Any) -> Array:
    """Sum of the valid values of a chunk."""
    return jnp.where(valid.reshape(-1, *(1,) * (ys.ndim - 1)), ys, 0).sum(0, dtype=dtype)


def _merge(ys: Array, valid: Array, here: Array, count: Array, mean: Array, m2: Array) -> tuple[Array, Array]:
    """Merge one chunk of values into a running mean and sum of squared deviations, in the dtype of the sums."""
    ys = ys.astype(mean.dtype)
    # Measured from one of the values, so that a large common offset costs no digits.
    chunk_mean = ys[0] + _sum(ys - ys[:1], valid, mean.dtype) / here.astype(mean.dtype)
    delta = chunk_mean - mean
    share = (here / (count + here)).astype(mean.dtype)
    deviations = _sum((ys - chunk_mean[None]) ** 2, valid, mean.dtype)
    return mean + share * delta, m2 + deviations + delta**2 * share * count.astype(mean.dtype)

r"""A plane in which rows that are neighbours stay neighbours: t-SNE, exact, as a pure function.

Everything is arrays of fixed shape, so that classes with unequal numbers of rows are padded and mapped with `jax.vmap`.
The start is that of the two principal components: no key, and the same plane every time.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Rows = Float[Array, "n d"]
Mask = Bool[Array, " n"]


def tsne(
    rows: Rows,
    *,
    valid: Mask | None = None,
    perplexity: float = 30.0,
    num_steps: int = 400,
    exaggeration: float = 12.0,
) -> Float[Array, "n 2"]:
    r"""Places in the plane whose neighbourhoods are those of the rows.

    $\min_y \mathrm{KL}(P \| Q)$, $p_{ij} = (p_{j|i} + p_{i|j}) / 2n$, $q_{ij} \propto (1 + \|y_i - y_j\|^2)^{-1}$

    Gradient descent with momentum and gains, the attraction exaggerated in the first quarter of the steps. Places are
    centred and scaled into [-1, 1]: axes, and distances between far groups, mean nothing.

    Cost: `num_steps` times $n^2$ distances in the plane; $n^2$ numbers of memory.

    Args:
        rows: One item each.
        valid: Rows that are there; the others are padding and are placed at the origin.
        perplexity: How many neighbours count, at most a third of the rows.
        num_steps: Of the descent.
        exaggeration: Of the attraction at first.

    Example:
        >>> rows = jnp.repeat(jnp.eye(2), 8, axis=0) + jnp.linspace(0, 0.1, 16)[:, None]
        >>> y = tsne(rows, perplexity=4.0, num_steps=200)
        >>> bool(jnp.linalg.norm(y[:8].mean(0) - y[8:].mean(0)) > 0.5)
        True

    Reference:
        van der Maaten & Hinton 2008, Visualizing data using t-SNE. Kobak & Linderman 2021, Initialization is critical
        for preserving global data structure in both t-SNE and UMAP.
    """
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    valid = jnp.ones(len(rows), bool) if valid is None else valid
    p = neighbourhoods(rows, valid=valid, perplexity=perplexity)
    total = (p + p.T).sum()
    p = (p + p.T) / jnp.where(total > 0, total, 1)
    pairs = valid[:, None] & valid[None, :] & ~jnp.eye(len(rows), dtype=bool)
    first = 1e-4 * _principal(rows, valid)
    rate = jnp.maximum(valid.sum() / exaggeration, 10.0)  # steps of 50 fling a few of 60 rows far off

    def step(state: tuple[Array, Array, Array], t: Array) -> tuple[tuple[Array, Array, Array], None]:
        y, speed, gain = state
        early = t < num_steps // 4
        near = jnp.where(pairs, 1 / (1 + _squared_distances(y)), 0)
        sum_near = near.sum()
        q = near / jnp.where(sum_near > 0, sum_near, 1)
        pull = (jnp.where(early, exaggeration, 1.0) * p - q) * near
        slope = 4 * (pull.sum(1, keepdims=True) * y - jnp.matmul(pull, y, precision="highest"))
        gain = jnp.maximum(jnp.where(slope * speed < 0, gain + 0.2, gain * 0.8), 0.01)
        speed = jnp.where(early, 0.5, 0.8) * speed - rate * gain * slope
        return (y + speed, speed, gain), None

    start = (first, jnp.zeros_like(first), jnp.ones_like(first))
    (y, _, _), _ = lax.scan(step, start, jnp.arange(num_steps))
    return _framed(y, valid)


def neighbourhoods(rows: Rows, *, valid: Mask | None = None, perplexity: float = 30.0) -> Float[Array, "n n"]:
    r"""How much every row takes each other one for its neighbour.

    $p_{j|i} \propto \exp(-\beta_i \|a_i - a_j\|^2)$, $p_{i|i} = 0$, with $\beta_i$ such that
    $2^{H(p_{\cdot|i})}$ is the perplexity

    Args:
        rows: One item each.
        valid: As in `tsne`; rows of padding are zero.
        perplexity: As in `tsne`.

    Example:
        >>> p = neighbourhoods(jnp.arange(30.0)[:, None] ** 1.5, perplexity=5.0)
        >>> entropy = -(p * jnp.log2(jnp.where(p > 0, p, 1))).sum(1)
        >>> bool((jnp.abs(2**entropy - 5) < 1e-2).all())
        True

    Reference:
        van der Maaten & Hinton 2008, Visualizing data using t-SNE.
    """
    valid = jnp.ones(len(rows), bool) if valid is None else valid
    pairs = valid[:, None] & valid[None, :] & ~jnp.eye(len(rows), dtype=bool)
    distances = jnp.where(pairs, _squared_distances(rows), jnp.inf)
    nearest = jnp.min(distances, axis=1, keepdims=True)
    gaps = jnp.where(pairs, distances - jnp.where(jnp.isfinite(nearest), nearest, 0), 0)
    count = jnp.maximum(valid.sum(), 2)
    wanted = jnp.log(jnp.clip(perplexity, 1.0, jnp.maximum((count - 1) / 3, 1.0)))

    def law(log_beta: Float[Array, " n"]) -> tuple[Array, Array]:
        scaled = jnp.exp(log_beta)[:, None] * gaps
        weights = jnp.where(pairs, jnp.exp(-scaled), 0)
        total = weights.sum(1, keepdims=True)
        p = weights / jnp.where(total > 0, total, 1)
        return p, (p * scaled).sum(1) + jnp.log(jnp.where(total > 0, total, 1))[:, 0]

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        too_wide = law(middle)[1] > wanted
        return jnp.where(too_wide, middle, low), jnp.where(too_wide, high, middle)

    # Of units in which the mean gap is 1, 40 halvings of 60 nats leave less than rounding.
    mean_gap = gaps.sum(1) / count
    unit = jnp.log(jnp.where(mean_gap > 0, mean_gap, 1))
    low, high = lax.fori_loop(0, 40, halve, (-unit - 30, -unit + 30))
    return law((low + high) / 2)[0]


def _squared_distances(rows: Rows) -> Float[Array, "n n"]:
    lengths = jnp.square(rows).sum(1)
    products = jnp.matmul(rows, rows.T, precision="highest")
    return jnp.maximum(lengths[:, None] + lengths[None, :] - 2 * products, 0)


def _principal(rows: Rows, valid: Mask) -> Float[Array, "n 2"]:
    """The first two principal components, of standard deviation 1 the first; their signs by their largest entry."""
    member = valid[:, None].astype(rows.dtype)
    centred = (rows - (rows * member).sum(0, keepdims=True) / jnp.maximum(member.sum(), 1)) * member
    if centred.shape[1] < 2:
        centred = jnp.pad(centred, ((0, 0), (0, 2 - centred.shape[1])))
    _, axes = jnp.linalg.eigh(jnp.matmul(centred.T, centred, precision="highest"))
    axes = axes[:, -2:][:, ::-1]
    largest = jnp.take_along_axis(axes, jnp.abs(axes).argmax(0)[None], 0)
    places = jnp.matmul(centred, axes * jnp.where(largest < 0, -1, 1), precision="highest")
    size = jnp.sqrt(jnp.square(places[:, 0]).sum() / jnp.maximum(member.sum(), 1))
    return places / jnp.where(size > 0, size, 1)


def _framed(y: Float[Array, "n 2"], valid: Mask) -> Float[Array, "n 2"]:
    member = valid[:, None]
    y = jnp.where(member, y - jnp.where(member, y, 0).sum(0, keepdims=True) / jnp.maximum(valid.sum(), 1), 0)
    size = jnp.abs(y).max()
    return y / jnp.where(size > 0, size, 1)

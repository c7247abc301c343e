r"""Point sets in $[0, 1)^d$: scrambled Sobol', scrambled Halton, Latin hypercube, Monte Carlo, antithetic pairs.

All are called as `design(num_points, dim, key=key)` and return float32 points, all strictly below one.
The key may be traced and mapped over; `num_points` and `dim` are static.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, Int, PRNGKeyArray

_LATTICE = 2**24  # float32 holds every multiple of 2^-24 in [0, 1) exactly
_SOBOL_DIMS = 21201  # the columns for which Joe and Kuo publish direction numbers


def sobol(num_points: int, dim: int, *, key: PRNGKeyArray | None = None) -> Float[Array, "num_points dim"]:
    r"""Sobol' points, with Owen's nested uniform scrambling when a key is given.

    Every scrambled point is uniform, so means are unbiased, and every column of $N$ points has exactly one in
    each interval $[i/N, (i+1)/N)$. For smooth functions the root mean square error of a mean is near
    $N^{-3/2}$, against $N^{-1/2}$ for independent points.

    A net of few points repeats itself in high dimension: the first 242 columns of 32 points share 16 patterns
    of leading bits, so that whole groups stay correlated by 3/4 and more under any scrambling, and some
    columns coincide. A keyed design therefore takes the longest prefix of columns whose leading bits all
    differ, that is, of which every two fill the four quadrants equally (10 columns for 32 points, 112 for
    256, over 300 for 1024), and covers further dimensions by copies of it, each scrambled on its own and its
    rows matched at random. Without a key the sequence is returned as it is, from the origin on.

    Args:
        num_points: A power of two, at most $2^{24}$.
        dim: At most 21201 without a key.
        key: Key of the scrambling; None for the raw sequence.

    Raises:
        ValueError: If `num_points` is not a power of two, or the raw sequence has fewer than `dim` columns.

    Example:
        >>> sobol(4, 2)
        Array([[0.  , 0.  ],
               [0.5 , 0.5 ],
               [0.75, 0.25],
               [0.25, 0.75]], dtype=float32)
        >>> jnp.sort(jnp.floor(4 * sobol(4, 2, key=jax.random.key(0))), axis=0)[:, 0]
        Array([0., 1., 2., 3.], dtype=float32)

    Reference:
        Owen, 1997, Scrambled net variance for integrals of smooth functions. Owen, 1998, Latin supercube
        sampling for very high-dimensional simulations. Joe and Kuo, 2008, Constructing Sobol sequences with
        better two-dimensional projections.
    """
    _check(num_points, dim)
    bits = num_points.bit_length() - 1
    if num_points != 2**bits:
        raise ValueError(
            f"sobol got num_points={num_points}, expected a power of two: take {2**bits} or {2 ** (bits + 1)}"
        )
    if key is None:
        return jnp.asarray(_sobol_cells(num_points, dim) / num_points, jnp.float32)
    order_key, flip_key, place_key = random.split(key, 3)
    net = _quadrant_prefix(num_points, dim)
    blocks = -(-dim // net.shape[1])
    # The first block keeps its order: the head of a design that fits in one block is itself a scrambled net.
    cells = jnp.asarray(net)
    if blocks > 1:
        order = _permutations(order_key, num_points, blocks).at[:, 0].set(jnp.arange(num_points))
        cells = cells[order].reshape(num_points, -1)[:, :dim]
    return _place(place_key, _nested_flips(flip_key, cells, bits), num_points)


def halton(num_points: int, dim: int, *, key: PRNGKeyArray | None = None) -> Float[Array, "num_points dim"]:
    r"""Halton points: column $j$ is in the $j$-th prime base $b$, its digits permuted when a key is given.

    $x_i = \sum_k \pi_k(d_k)\, b^{-k-1}$ for the index $i = \sum_k d_k\, b^k$

    With a key every $\pi_k$ is a uniformly random permutation, drawn for each column and each position until
    the points are told apart, and what remains is uniform in the last interval. Without a key $\pi_k$ is the
    identity: do not use it above about ten dimensions, where the first points of all columns with $b > N$
    rise together.

    Example:
        >>> halton(4, 2)[:, 0]
        Array([0.  , 0.5 , 0.25, 0.75], dtype=float32)

    Reference:
        Halton, 1960, On the efficiency of certain quasi-random sequences of points in evaluating
        multi-dimensional integrals. Owen, 2017, A randomized Halton algorithm in R, arXiv:1706.02808.
    """
    _check(num_points, dim)
    index, bases = np.arange(num_points)[:, None], _primes(dim)
    if key is None:
        return jnp.asarray(_radical_inverse(index, bases[None]), jnp.float32)
    # One row for each digit of each column, as many digits as tell the points apart: b^level < N.
    levels = np.arange(max(1, (num_points - 1).bit_length()))[:, None]
    level, column = np.nonzero(bases.astype(float)[None] ** levels < max(num_points, 2))
    base = bases[column, None]
    power = base ** level[:, None]
    digit_key, place_key = random.split(key)
    digits = _permute_digits(digit_key, index.T // power % base, base)
    width = np.ones((1, dim))
    np.minimum.at(width[0], column, 1 / (power * base)[:, 0])
    points = jnp.zeros((dim, num_points), jnp.float32).at[column].add(digits * np.float32(1 / (power * base))).T
    points += random.uniform(place_key, points.shape, jnp.float32) * np.float32(width)
    return jnp.minimum(points, np.float32(1 - 1 / _LATTICE))


def latin_hypercube(num_points: int, dim: int, *, key: PRNGKeyArray) -> Float[Array, "num_points dim"]:
    r"""Latin hypercube: each column has one point in every interval $[i/N, (i+1)/N)$, in a random order.

    $x_{ij} = (\pi_j(i) + u_{ij}) / N$

    Example:
        >>> jnp.sort(jnp.floor(3 * latin_hypercube(3, 2, key=jax.random.key(0))), axis=0)[:, 1]
        Array([0., 1., 2.], dtype=float32)

    Reference:
        McKay, Beckman and Conover, 1979, A comparison of three methods for selecting values of input
        variables in the analysis of output from a computer code.
    """
    _check(num_points, dim)
    order_key, place_key = random.split(key)
    return _place(place_key, _permutations(order_key, num_points, dim), num_points)


def monte_carlo(num_points: int, dim: int, *, key: PRNGKeyArray) -> Float[Array, "num_points dim"]:
    """Independent uniform points.

    Example:
        >>> monte_carlo(5, 3, key=jax.random.key(0)).shape
        (5, 3)

    Reference:
        Metropolis & Ulam 1949, The Monte Carlo method.
    """
    _check(num_points, dim)
    return random.uniform(key, (num_points, dim), jnp.float32)


def antithetic(num_points: int, dim: int, *, key: PRNGKeyArray) -> Float[Array, "num_points dim"]:
    r"""Independent uniform points, each followed by its mirror image.

    $x_{2i + 1} = 1 - 2^{-24} - x_{2i}$

    What is odd about the centre of the cube averages to zero in every pair, and columns are balanced about 1/2: at an
    even effect, such as the interaction of two inputs, none of the single inputs is in the way.

    Args:
        num_points: An even number.
        dim: Number of columns.
        key: Draws the first point of each pair.

    Raises:
        ValueError: If `num_points` is odd.

    Example:
        >>> x = antithetic(2, 3, key=jax.random.key(0))
        >>> x[0] + x[1] == 1 - 2.0**-24
        Array([ True,  True,  True], dtype=bool)

    Reference:
        Hammersley & Morton 1956, A new Monte Carlo technique: antithetic variates.
    """
    if num_points % 2:
        raise ValueError(f"antithetic got num_points={num_points}, expected an even number: points come in pairs")
    points = monte_carlo(num_points // 2, dim, key=key)
    return jnp.stack([points, np.float32(1 - 1 / _LATTICE) - points], 1).reshape(num_points, dim)


def _check(num_points: int, dim: int) -> None:
    if not (1 <= num_points <= _LATTICE and dim >= 1):
        bounds = f"1 <= num_points <= {_LATTICE} and dim >= 1"
        raise ValueError(f"a design got num_points={num_points} and dim={dim}, expected {bounds}")


@functools.lru_cache(maxsize=4)
def _sobol_cells(num_points: int, dim: int) -> Int[np.ndarray, "n d"]:
    """Raw Sobol' points as integers: `num_points` times the points of `scipy.stats.qmc.Sobol`."""
    from scipy.stats import qmc  # slow to import: only here, when a program is traced

    if dim > _SOBOL_DIMS:
        raise ValueError(f"raw sobol got dim={dim}, expected at most {_SOBOL_DIMS}: give a key to have more")
    cells = (qmc.Sobol(dim, scramble=False).random(num_points) * num_points).astype(np.int32)
    cells.flags.writeable = False
    return cells


def _quadrant_prefix(num_points: int, dim: int) -> Int[np.ndarray, "n s"]:
    """The longest prefix of Sobol' columns of which no two have the same leading bit in every row."""
    cells = _sobol_cells(num_points, min(dim, _SOBOL_DIMS))
    # Bits are linear over GF(2) in the index, so rows 1, 2, 4, ... decide: at most N/2 different patterns.
    basis = cells[2 ** np.arange(num_points.bit_length() - 1)] * 2 // num_points
    seen: set[bytes] = set()
    for column, pattern in enumerate(basis.T):
        if pattern.tobytes() in seen:
            return cells[:, :column]
        seen.add(pattern.tobytes())
    return cells


def _permutations(key: PRNGKeyArray, num_points: int, columns: int) -> Int[Array, "n k"]:
    """Independent uniformly random orders of the rows, one per column."""
    return random.permutation(
        key, jnp.broadcast_to(jnp.arange(num_points)[:, None], (num_points, columns)), independent=True
    )


def _nested_flips(key: PRNGKeyArray, cells: Int[Array, "n d"], bits: int) -> Int[Array, "n d"]:
    """Owen's scrambling in base 2: a bit is flipped or not depending on all the higher ones.

    The k leading bits lead to a node of a binary tree, number 2^k + prefix in heap order, which holds the
    next flip.
    """
    flips = random.bits(key, cells.shape, jnp.uint8) & 1
    scrambled = cells
    for depth in range(bits):
        node = 2**depth + (cells >> (bits - depth))
        flip = jnp.take_along_axis(flips, node, axis=0).astype(cells.dtype)
        scrambled ^= flip << (bits - 1 - depth)
    return scrambled


def _place(key: PRNGKeyArray, cells: Int[Array, "n d"], num_cells: int) -> Float[Array, "n d"]:
    """A uniform float32 in each cell [i/N, (i+1)/N), drawn as an integer so that rounding moves none out."""
    edges = jnp.asarray(-(-np.arange(num_cells + 1) * _LATTICE // num_cells), jnp.int32)
    lattice = random.randint(key, cells.shape, edges[cells], edges[cells + 1], jnp.int32)
    return lattice.astype(jnp.float32) / _LATTICE


def _permute_digits(
    key: PRNGKeyArray, digits: Int[np.ndarray, "r n"], base: Int[np.ndarray, "r 1"]
) -> Int[Array, "r n"]:
    """Each row of digits through its own random permutation of {0, ..., base - 1}."""
    priority = random.uniform(key, (len(base), int(base.max())), jnp.float32)
    priority = jnp.where(np.arange(base.max())[None] < base, priority, -1.0)
    # Only the images of the digits that occur: all of a small base, the first N of a large one.
    _, images = lax.top_k(priority, int(digits.max()) + 1)
    return jnp.take_along_axis(images, jnp.asarray(digits), axis=1)


def _radical_inverse(index: Int[np.ndarray, "n 1"], bases: Int[np.ndarray, "1 d"]) -> Float[np.ndarray, "n d"]:
    """The digits of the index mirrored at the radix point; not above the last float32 before one."""
    points, scale = np.zeros((len(index), bases.shape[1])), 1.0 / bases
    while index.any():
        points += index % bases * scale
        index, scale = index // bases, scale / bases
    return np.minimum(points, 1 - 1 / _LATTICE)


@functools.lru_cache(maxsize=16)
def _primes(count: int) -> Int[np.ndarray, " d"]:
    """The first primes, by sieving up to Rosser's bound p_n < n (log n + log log n) for n >= 6."""
    limit = int(count * (np.log(count) + np.log(np.log(count)))) + 1 if count >= 6 else 14
    sieve = np.ones(limit + 1, bool)
    sieve[:2] = False
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = False
    primes = np.flatnonzero(sieve)[:count]
    primes.flags.writeable = False
    return primes

r"""Matrices as orthonormal ones: the polar factor, Cayley, exponential, Householder, QR, Cholesky.

A kernel is `(inputs, outputs)` and acts as $x \mapsto x W$. Each function here takes any `(m, n)` and returns one with
orthonormal columns, or rows where these are fewer, so that all its singular values are 1; they differ in what they
reach, in how exact they are, and in their derivative. `polar` is the default of the layers: products of matrices only,
which suit any accelerator, and the nearest orthonormal matrix, so that an orthogonal start stays put.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.linalg import gram_bound

_dot = functools.partial(jnp.matmul, precision="highest")

# The largest scaling of a Newton-Schulz step that keeps the rounding of a singular value 1 small (Chen & Chow, 2014).
_STABLE = 1.697
# Above this angle the truncated exponential of a degree expands: where its modulus on the imaginary axis leaves 1.
_CONTRACTIVE = {3: 1.732, 4: 2.828, 7: 1.764, 8: 3.395, 11: 1.701, 12: 3.379, 16: 3.325}


def newton_schulz(kernel: Float[Array, "m n"], *, steps: int = 11, smallest: float = 1e-3) -> Float[Array, "m n"]:
    r"""Polar factor by scaled Newton-Schulz steps, none of which takes a singular value above one.

    $W \leftarrow \tfrac32 \alpha W - \tfrac12 \alpha^3 W W^\top W$, $\;\alpha = \sqrt{3 / (1 + l + l^2)}$, with l the
    least singular value at each step

    The scaling makes both ends of the interval $[l, 1]$ meet at the same value below one, so that a small singular
    value grows by 2.5 a step, where Björck's grows by 1.5: 0.001 takes 11 steps to $10^{-7}$ instead of 21. What is
    below `smallest` comes out below one.

    Args:
        kernel: Any matrix.
        steps: Number of steps, of two products each.
        smallest: $l$ of the start, the least singular value over the largest that is to come out as one.

    Example:
        >>> w = newton_schulz(jnp.diag(jnp.array([100.0, 3.0, 0.2])))
        >>> jnp.diag(w).round(5).tolist()
        [1.0, 1.0, 1.0]

    Reference:
        Chen & Chow 2014, A stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian
        matrix. Higham 2008, Functions of matrices: theory and computation, chapter 8.
    """
    if kernel.shape[0] < kernel.shape[1]:
        return newton_schulz(kernel.T, steps=steps, smallest=smallest).T
    if not kernel.size:
        return kernel
    bound = gram_bound(kernel)

    def step(w: Array, alpha: Array) -> tuple[Array, None]:
        w = alpha * w
        return 1.5 * w - 0.5 * _dot(w, _dot(w.T, w)), None

    w, _ = lax.scan(step, kernel / jnp.where(bound > 0, bound, 1), _scalings(steps, smallest, kernel.dtype))
    return w


def _scalings(steps: int, smallest: float, dtype) -> Array:
    """The scaling of each step, for singular values from `smallest` to 1."""
    low, scalings = smallest, []
    for _ in range(steps):
        scalings.append(min(_STABLE, math.sqrt(3 / (1 + low + low**2))))
        low = min(1.5 * s - 0.5 * s**3 for s in (scalings[-1] * low, scalings[-1]))
    return jnp.asarray(np.array(scalings), dtype)


def polar(kernel: Float[Array, "m n"], *, steps: int = 11, smallest: float = 1e-3) -> Float[Array, "m n"]:
    r"""The nearest matrix with orthonormal columns (rows, if there are fewer), with its exact derivative.

    $O = W H^{-1}$, $H = (W^\top W)^{1/2}$;
    $\; dO = O Y + (I - O O^\top)\, dW H^{-1}$ with $H Y + Y H = O^\top dW - dW^\top O$

    Forward it is `newton_schulz`. The derivative is that of the limit, not of the steps: at an orthogonal matrix the
    projection to its tangents. It is solved by the same iteration for `(n, n)` matrices, with products only, of any
    order, forward or reverse.

    Args:
        kernel: Any matrix of full rank.
        steps: As in `newton_schulz`.
        smallest: As in `newton_schulz`.

    Example:
        >>> polar(jnp.array([[3.0, -4.0], [4.0, 3.0]])).round(3)
        Array([[ 0.6, -0.8],
               [ 0.8,  0.6]], dtype=float32)

    Reference:
        Björck & Bowie 1971, An iterative algorithm for computing the best estimate of an orthogonal matrix. Higham
        2008, Functions of matrices: theory and computation, chapter 8.
    """
    if kernel.shape[0] < kernel.shape[1]:
        return polar(kernel.T, steps=steps, smallest=smallest).T
    return _polar(steps, smallest, kernel) if kernel.size else kernel


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _polar(steps: int, smallest: float, kernel: Array) -> Array:
    return newton_schulz(kernel, steps=steps, smallest=smallest)


@_polar.defjvp
def _polar_jvp(steps: int, smallest: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    ((kernel,), (tangent,)) = primals, tangents
    orthogonal = _polar(steps, smallest, kernel)
    inner = _dot(orthogonal.T, tangent)
    stretch = _dot(orthogonal.T, kernel)
    turn, inverse = _lyapunov((stretch + stretch.T) / 2, inner - inner.T, steps, smallest)
    out = _dot(orthogonal, turn)
    if kernel.shape[0] > kernel.shape[1]:
        out += _dot(tangent - _dot(orthogonal, inner), inverse)
    return orthogonal, out


def _lyapunov(h: Array, z: Array, steps: int, smallest: float) -> tuple[Array, Array]:
    r"""The skew Y of H Y + Y H = Z, for H positive definite and Z skew, and the inverse of H.

    The sign of the block matrix [[H, Z], [0, -H]] is [[I, 2 Y], [0, -I]] (Roberts, 1980); its Newton-Schulz iteration
    never fills the lower left block, and the factors by which H grew to I are its inverse.
    """
    bound = jnp.where((bound := gram_bound(h)) > 0, bound, 1)
    eye = jnp.eye(len(h), dtype=h.dtype)

    def step(state: tuple[Array, Array, Array], alpha: Array) -> tuple[tuple[Array, Array, Array], None]:
        h, z, inverse = state
        # Rounding that breaks the symmetries would grow.
        h, z = alpha / 2 * (h + h.T), alpha / 2 * (z - z.T)
        factor = 1.5 * eye - 0.5 * _dot(h, h)
        hz = _dot(h, z)
        both = _dot(h, hz)  # H H Z, and Z H H is minus its transpose
        return (_dot(h, factor), 1.5 * z - 0.5 * (both - both.T - _dot(hz, h)), alpha * _dot(inverse, factor)), None

    scalings = _scalings(steps, smallest, h.dtype)
    (_, z, inverse), _ = lax.scan(step, (h / bound, z / bound, eye), scalings)
    return z / 2, inverse / bound


def cayley(kernel: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r"""Orthonormal columns by Cayley's transform, exact to the precision of one linear solve.

    $O = [(I + A)^{-1} (I - A);\; -2 V (I + A)^{-1}]$, $\;A = U - U^\top + V^\top V$, $\;W = [U; V]$

    A square kernel reaches the rotations without the eigenvalue −1.

    Example:
        >>> cayley(jnp.array([[0.0, 1.0], [0.0, 0.0]])).round(3)  # A turns by a quarter
        Array([[ 0., -1.],
               [ 1.,  0.]], dtype=float32)

    Reference:
        Trockman & Kolter 2021, Orthogonalizing convolutional layers with the Cayley transform, arXiv:2104.07167.
    """
    m, n = kernel.shape
    if m < n:
        return cayley(kernel.T).T
    u, v = kernel[:n], kernel[n:]
    eye = jnp.eye(n, dtype=kernel.dtype)
    a = u - u.T + _dot(v.T, v)
    top = jnp.linalg.solve(eye + a, eye - a)
    return top if m == n else jnp.concatenate([top, -2 * jnp.linalg.solve((eye + a).T, v.T).T])


def exponential(kernel: Float[Array, "m n"], *, degree: int = 8, squarings: int = 2) -> Float[Array, "m n"]:
    r"""A rotation by the exponential of a skew matrix, never beyond the Lipschitz constant 1.

    $O = T_k(A / 2^s)^{2^s}$, $\;A = W - W^\top$ with $\|A\| \le \pi$, $\;T_k(A) = \sum_{i \le k} A^i / i!$

    The eigenvalue $i\theta$ of A becomes $T_k(i\theta)$, whose modulus is at most 1 near 0 only for the degrees 0 and 3
    modulo 4. At the defaults it is within $10^{-6}$ of 1. Angles above π are scaled down: all rotations are reached.

    Args:
        kernel: Any matrix; a tall one is filled up with zeros and the first columns of the rotation are returned.
        degree: k: 3, 4, 7, 8, 11, 12 or 16.
        squarings: s; π / 2ˢ must be where the degree contracts, 1.7 to 3.4.

    Raises:
        ValueError: For a degree that expands, or too few squarings for it.

    Example:
        >>> exponential(jnp.array([[0.0, -jnp.pi / 2], [0.0, 0.0]])).round(3) + 0.0
        Array([[ 0., -1.],
               [ 1.,  0.]], dtype=float32)

    Reference:
        Singla & Feizi 2021, Skew orthogonal convolutions, arXiv:2105.11417. Hairer & Wanner 1996, Solving ordinary
        differential equations II, section IV.2 (moduli on the imaginary axis).
    """
    check_degree(degree, math.pi / 2**squarings)
    m, n = kernel.shape
    if m < n:
        return exponential(kernel.T, degree=degree, squarings=squarings).T
    square = jnp.pad(kernel, ((0, 0), (0, m - n)))
    skew = square - square.T
    bound = gram_bound(skew)
    skew = skew * jnp.minimum(1, math.pi / jnp.where(bound > 0, bound, 1)) / 2**squarings
    eye = jnp.eye(m, dtype=kernel.dtype)
    turn = eye
    for i in reversed(range(1, degree + 1)):
        turn = eye + _dot(skew, turn) / i
    for _ in range(squarings):
        turn = _dot(turn, turn)
    return turn[:, :n]


def check_degree(degree: int, angle: float) -> None:
    """Whether the truncated exponential of this degree contracts up to this angle.

    Raises:
        ValueError: If it does not.

    Example:
        >>> check_degree(8, 1.0)

    Reference:
        Hairer & Wanner 1996, Solving ordinary differential equations II, section IV.2.
    """
    if angle > _CONTRACTIVE.get(degree, 0):
        ranges = ", ".join(f"{k} up to {v}" for k, v in _CONTRACTIVE.items())
        raise ValueError(
            f"the exponential of degree {degree} expands for angles up to {angle:.3g}; degrees that contract: {ranges}"
        )


def householder(kernel: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r"""Orthonormal columns as a product of reflections, one for each column, exact to rounding.

    $O = H(v_1) \cdots H(v_n)\, I_{m \times n}$, $\;H(v) = I - 2 v v^\top / \|v\|^2$

    Reaches all orthogonal matrices with determinant $(-1)^n$. Sequential: n products of a vector with a matrix.

    Example:
        >>> householder(jnp.array([[1.0], [1.0]]))
        Array([[ 0.],
               [-1.]], dtype=float32)

    Reference:
        Householder 1958, Unitary triangularization of a nonsymmetric matrix. Mhammedi et al. 2017, Efficient orthogonal
        parametrisation of recurrent neural networks using Householder reflections, arXiv:1612.00188.
    """
    m, n = kernel.shape
    if m < n:
        return householder(kernel.T).T

    def reflect(o: Array, v: Array) -> tuple[Array, None]:
        square = jnp.sum(v**2)
        return o - (2 / jnp.where(square > 0, square, 1)) * jnp.outer(v, _dot(v, o)), None

    out, _ = lax.scan(reflect, jnp.eye(m, n, dtype=kernel.dtype), kernel.T, reverse=True)
    return out


def qr(kernel: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r"""Orthonormal columns by Gram-Schmidt: $W = O R$ with a positive diagonal of R.

    Example:
        >>> qr(jnp.array([[-3.0, 0.0], [4.0, 5.0]])).round(3)
        Array([[-0.6,  0.8],
               [ 0.8,  0.6]], dtype=float32)

    Reference:
        Golub & Van Loan 2013, Matrix computations, section 5.2.
    """
    if kernel.shape[0] < kernel.shape[1]:
        return qr(kernel.T).T
    q, r = jnp.linalg.qr(kernel)
    return q * jnp.where(jnp.diag(r) < 0, -1, 1).astype(q.dtype)[None]


def cholesky(kernel: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r"""As `qr`, by Cholesky factors of $W^\top W$: the fastest, and exact through repetition.

    $W \leftarrow W L^{-\top}$ with $L L^\top = W^\top W + \epsilon I$ at first, twice more without $\epsilon$

    A single factorisation is biased by $\epsilon$ and leaves errors of the square of the condition number.

    Example:
        >>> cholesky(jnp.array([[-3.0, 0.0], [4.0, 5.0]])).round(3)
        Array([[-0.6,  0.8],
               [ 0.8,  0.6]], dtype=float32)

    Reference:
        Fukaya et al. 2020, Shifted Cholesky QR for computing the QR factorization of ill-conditioned matrices,
        arXiv:1809.11085.
    """
    if kernel.shape[0] < kernel.shape[1]:
        return cholesky(kernel.T).T
    eye = jnp.eye(kernel.shape[1], dtype=kernel.dtype)
    w = kernel
    for shift in (sum(kernel.shape) * jnp.finfo(kernel.dtype).eps, 0, 0):
        gram = _dot(w.T, w)
        lower = jnp.linalg.cholesky(gram + shift * jnp.max(jnp.diag(gram)) * eye)
        w = jax.scipy.linalg.solve_triangular(lower, w.T, lower=True).T
    return w


def spectral_normalize(kernel: Float[Array, "m n"]) -> Float[Array, "m n"]:
    r"""The kernel over an upper bound of its largest singular value: $W / \hat\sigma(W)$, `gram_bound`.

    Power iteration underestimates σ, and the kernel then expands; this one never does, at any stage of training.

    Example:
        >>> spectral_normalize(jnp.diag(jnp.array([4.0, 1.0]))).round(3).tolist()
        [[1.0, 0.0], [0.0, 0.25]]

    Reference:
        Miyato et al. 2018, Spectral normalization for generative adversarial networks, arXiv:1802.05957. Delattre et
        al. 2023, Efficient bound of Lipschitz constant for convolutional layers by Gram iteration, arXiv:2305.16173.
    """
    bound = gram_bound(kernel)
    return kernel / jnp.where(bound > 0, bound, 1)


def random_orthogonal(m: int, n: int, *, key: PRNGKeyArray) -> Float[Array, "m n"]:
    """A uniformly random matrix with orthonormal columns (rows, if there are fewer): where training should start.

    Example:
        >>> w = random_orthogonal(3, 2, key=jax.random.key(0))
        >>> jnp.abs(w.T @ w - jnp.eye(2)).max().item() < 1e-6
        True

    Reference:
        Mezzadri 2007, How to generate random matrices from the classical compact groups, arXiv:math-ph/0609050.
    """
    return qr(jax.random.normal(key, (m, n)))

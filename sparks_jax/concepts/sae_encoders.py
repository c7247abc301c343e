r"""Linear encoders of sparse autoencoders, and what they keep: positive, the k largest, or above a threshold.

All have $p = x E^\top + b$. The row of $E$ that looks for a concept starts as its atom over its squared norm, so that
a lone atom of size z is coded z from the beginning.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from sparks_jax.concepts.sae_codes import Codes, densify, entries

Kernel = Callable[[Array], Array]


class Statistic(nnx.Variable):
    """A number that training observes and no gradient changes."""


class LinearEncoder(nnx.Module):
    r"""Every positive pre-activation: $z = [x E^\top + b]_+$. Its sparsity comes from the L1 penalty.

    Reference:
        Bricken et al. 2023, Towards monosemanticity: decomposing language models with dictionary learning.
    """

    def __init__(self, atoms: Float[Array, "k d"]):
        """Look for these atoms."""
        self.kernel = nnx.Param(atoms / jnp.sum(atoms**2, axis=1, keepdims=True))
        self.bias = nnx.Param(jnp.zeros(len(atoms), atoms.dtype))

    def pre(self, rows: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Pre-activations."""
        return rows @ self.kernel[...].T + self.bias[...][None]

    def __call__(self, atoms: Float[Array, "k d"], rows: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Codes of standardised rows, each by itself."""
        del atoms
        return self.activate(self.pre(rows))

    def activate(self, pre: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """What is kept of each row by itself."""
        return jax.nn.relu(pre)

    def of_batch(self, atoms: Float[Array, "k d"], rows: Float[Array, "n d"]) -> tuple[Array, Array | Codes]:
        """Pre-activations and codes of a batch in training."""
        del atoms
        pre = self.pre(rows)
        return pre, self.activate(pre)

    def of_dead(
        self,
        atoms: Float[Array, "k d"],
        rows: Float[Array, "n d"],
        pre: Float[Array, "n k"] | None,
        residual: Float[Array, "n d"],
        dead: Bool[Array, " k"],
        num: int,
    ) -> Codes:
        """The `num` largest positive pre-activations of dead latents, with the gradient of those alone."""
        del atoms, residual
        pre = lax.stop_gradient(self.pre(rows) if pre is None else pre)
        _, indices = lax.top_k(jnp.where(dead[None], pre, -jnp.inf), num)
        values = entries(pre, indices, rows, self.kernel[...], self.bias[...])
        return Codes(jnp.where(dead[indices], jax.nn.relu(values), 0), indices)

    def observed(self, codes: Array | Codes) -> "LinearEncoder":
        """The encoder after it has seen the codes of a batch."""
        del codes
        return self


class TopKEncoder(LinearEncoder):
    """The k largest pre-activations of each row, where positive.

    In training only these are differentiated (`sae_codes`).

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093.
    """

    def __init__(self, atoms: Float[Array, "k d"], *, k: int):
        """Look for these atoms, `k` a row."""
        super().__init__(atoms)
        self.k = _checked(k, len(atoms))

    def activate(self, pre: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """The k largest of each row."""
        values, indices = lax.top_k(pre, self.k)
        return densify(Codes(jax.nn.relu(values), indices), pre.shape[1])

    def of_batch(self, atoms: Float[Array, "k d"], rows: Float[Array, "n d"]) -> tuple[Array, Codes]:
        """Pre-activations, without gradient, and sparse codes, with theirs."""
        del atoms
        pre = lax.stop_gradient(self.pre(rows))
        _, indices = lax.top_k(pre, self.k)
        values = entries(pre, indices, rows, self.kernel[...], self.bias[...])
        return pre, Codes(jax.nn.relu(values), indices)


class BatchTopKEncoder(LinearEncoder):
    r"""The n k largest pre-activations of a batch of n rows: k a row on average, more where there is more to say.

    A row by itself has no batch: codes outside of training are what exceeds a threshold, the running mean of the
    smallest entry kept, $\theta \leftarrow m\,\theta + (1 - m) \min \{z : z > 0\}$. It is part of the state, and saved
    with it.

    Reference:
        Bussmann et al. 2024, BatchTopK sparse autoencoders, arXiv:2412.06410.
    """

    def __init__(self, atoms: Float[Array, "k d"], *, k: int, momentum: float = 0.99):
        """Look for these atoms, `k` a row on average."""
        super().__init__(atoms)
        self.k, self.momentum = _checked(k, len(atoms)), momentum
        self.threshold = Statistic(jnp.asarray(-1.0, atoms.dtype))  # negative before the first batch

    def activate(self, pre: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """What exceeds the threshold; before any training, what is positive."""
        return jnp.where(pre > jnp.maximum(self.threshold[...], 0), pre, 0)

    def of_batch(self, atoms: Float[Array, "k d"], rows: Float[Array, "n d"]) -> tuple[Array, Array]:
        """Pre-activations, and the n k largest of them."""
        del atoms
        pre = self.pre(rows)
        return pre, batch_top_k(pre, self.k)

    def observed(self, codes: Array | Codes) -> "BatchTopKEncoder":
        """The threshold moves towards the smallest entry kept, if there is one."""
        values = codes.values if isinstance(codes, Codes) else codes
        old, least = self.threshold[...], jnp.where(values > 0, values, jnp.inf).min()
        new = jnp.where(old < 0, least, self.momentum * old + (1 - self.momentum) * least)
        self.threshold[...] = jnp.where(jnp.isfinite(least), new, old)
        return self


def batch_top_k(pre: Float[Array, "n k"], num: int) -> Float[Array, "n k"]:
    """The `n num` largest of all entries, where positive: `num` a row on average.

    Args:
        pre: Pre-activations.
        num: Entries a row on average. Of equal ones the first count.

    Example:
        >>> batch_top_k(jnp.array([[4.0, 3.0, 2.0], [1.0, 0.5, 0.0]]), 1).tolist()
        [[4.0, 3.0, 0.0], [0.0, 0.0, 0.0]]

    Reference:
        Bussmann et al. 2024, BatchTopK sparse autoencoders, arXiv:2412.06410.
    """
    values, places = lax.top_k(pre.ravel(), num * len(pre))
    return jnp.zeros_like(pre).ravel().at[places].set(jax.nn.relu(values)).reshape(pre.shape)


class JumpReLUEncoder(LinearEncoder):
    r"""What exceeds a threshold that each concept learns: $z = p\, H(p - \theta)$ with $\theta = e^t$.

    Its sparsity comes from the L0 penalty. The jump has no derivative in $\theta$; `jump` gives it one.

    Reference:
        Rajamanoharan et al. 2024, Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
        arXiv:2407.14435.
    """

    def __init__(
        self,
        atoms: Float[Array, "k d"],
        *,
        threshold: float = 0.1,
        bandwidth: float = 0.1,
        kernel: Kernel | None = None,
    ):
        """Look for these atoms, all with the same threshold at first.

        The paper has 0.001 for both, in units where rows have norm 1; here they have norm √d.
        """
        super().__init__(atoms)
        self.log_threshold = nnx.Param(jnp.full(len(atoms), jnp.log(threshold), atoms.dtype))
        self.bandwidth, self.smoothing = bandwidth, kernel or rectangle

    def activate(self, pre: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """What exceeds the thresholds."""
        return jump(pre, jnp.exp(self.log_threshold[...])[None], self.bandwidth, self.smoothing)


# --- the jump, and the derivative that it is given ---


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def jump(
    pre: Float[Array, "n k"], threshold: Float[Array, "1 k"], bandwidth: float, kernel: Kernel
) -> Float[Array, "n k"]:
    r"""JumpReLU, with a derivative in its threshold.

    $z = p\, H(p - \theta)$, $\partial z / \partial p = H(p - \theta)$ and
    $\partial z / \partial \theta = -\frac{\theta}{\varepsilon} K\!\left(\frac{p - \theta}{\varepsilon}\right)$

    In expectation over p the last is the derivative of the smoothed mean: a kernel estimate of $-\theta$ times the
    density of p at $\theta$, which takes a kernel that integrates to 1.

    Args:
        pre: $p$.
        threshold: $\theta$, one for each concept.
        bandwidth: $\varepsilon$.
        kernel: $K$.

    Example:
        >>> jump(jnp.array([[0.4, 0.6]]), jnp.array([[0.5, 0.5]]), 0.5, rectangle).round(1).tolist()
        [[0.0, 0.6...]]
        >>> total = lambda threshold: jump(jnp.array([[0.4, 0.9]]), threshold, 0.5, rectangle).sum()
        >>> jax.grad(total)(jnp.full((1, 2), 0.5)).tolist()
        [[-1.0, -0.0]]

    Reference:
        Rajamanoharan et al. 2024, arXiv:2407.14435, section 4.
    """
    return jnp.where(pre > threshold, pre, 0)


def _jump_forward(pre, threshold, bandwidth, kernel):
    return jump(pre, threshold, bandwidth, kernel), (pre, threshold)


def _jump_backward(bandwidth, kernel, kept, cotangent):
    pre, threshold = kept
    slope = -threshold * kernel((pre - threshold) / bandwidth) / bandwidth
    to_threshold = jnp.sum(cotangent * slope, axis=0, keepdims=True)
    return jnp.where(pre > threshold, cotangent, 0), to_threshold


jump.defvjp(_jump_forward, _jump_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def heaviside(
    pre: Float[Array, "n k"], threshold: Float[Array, "1 k"], bandwidth: float, kernel: Kernel
) -> Float[Array, "n k"]:
    r"""Heaviside's step, with a derivative in its threshold alone: what the L0 penalty sums.

    $H(p - \theta)$ and
    $\partial H / \partial \theta = -\frac{1}{\varepsilon} K\!\left(\frac{p - \theta}{\varepsilon}\right)$

    Args:
        pre: $p$.
        threshold: $\theta$, one for each concept.
        bandwidth: $\varepsilon$.
        kernel: $K$, of integral 1.

    Example:
        >>> count = lambda threshold: heaviside(jnp.array([[0.4, 0.9]]), threshold, 0.5, rectangle).sum()
        >>> jax.grad(count)(jnp.full((1, 2), 0.5)).tolist()
        [[-2.0, -0.0]]

    Reference:
        Rajamanoharan et al. 2024, arXiv:2407.14435, section 4.
    """
    return jnp.where(pre > threshold, 1, 0).astype(pre.dtype)


def _heaviside_forward(pre, threshold, bandwidth, kernel):
    return heaviside(pre, threshold, bandwidth, kernel), (pre, threshold)


def _heaviside_backward(bandwidth, kernel, kept, cotangent):
    pre, threshold = kept
    slope = -kernel((pre - threshold) / bandwidth) / bandwidth
    return jnp.zeros_like(pre), jnp.sum(cotangent * slope, axis=0, keepdims=True)


heaviside.defvjp(_heaviside_forward, _heaviside_backward)


def rectangle(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 within half a bandwidth: the paper's kernel."""
    return jnp.where(jnp.abs(u) < 0.5, 1, 0).astype(u.dtype)


def triangle(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 - |u| within a bandwidth."""
    return jax.nn.relu(1 - jnp.abs(u))


def epanechnikov(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """3/4 (1 - u²) within a bandwidth."""
    return 0.75 * jax.nn.relu(1 - u**2)


def quartic(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """15/16 (1 - u²)² within a bandwidth."""
    return 15 / 16 * jax.nn.relu(1 - u**2) ** 2


def gaussian(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The standard normal density."""
    return jnp.exp(-(u**2) / 2) / jnp.sqrt(2 * jnp.pi)


def _checked(k, num_concepts):
    if not 1 <= k <= num_concepts:
        raise ValueError(f"k is {k}, expected 1 to {num_concepts}: the entries that a row keeps of its codes")
    return k

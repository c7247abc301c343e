r"""An upper bound of how fast each output of a function can change: operator norms along its equations."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from sparks_jax import linalg
from sparks_jax.types import Box
from sparks_jax.verify.affine_rules import affine_of
from sparks_jax.verify.enclosures import Affine
from sparks_jax.verify.groups import grouped
from sparks_jax.verify.interpreter import Node, Program, evaluate, trace
from sparks_jax.verify.margins import linear_tail

# Greatest slopes of functions of one number: 2/sqrt(pi) for erf, 1.0999 for SiLU at 2.40, 1.1290 for GELU at 1.41.
_STEEPEST = {
    **dict.fromkeys(("tanh", "sin", "cos", "abs", "softplus", "atan", "asinh", "logsumexp"), 1.0),
    **{"logistic": 0.25, "erf": 1.1284, "erfc": 1.1284, "silu": 1.0999, "gelu": 1.1291, "gelu_tanh": 1.1291},
    # The Jacobian diag(p) - p p' has no eigenvalue above 1/2.
    "softmax": 0.5,
}
_OF_TWO = ("max", "min")
_OVER_AXES = ("reduce_max", "reduce_min")
_OVER_WINDOWS = ("reduce_window_max", "reduce_window_min")


def lipschitz_bound(f: Callable[..., Any], like: Any) -> Float[Array, " m"]:
    r"""Upper bounds of the Lipschitz constant of each output of a function, in the Euclidean norm, everywhere.

    $|f_j(x) - f_j(y)| \le L_j \|x - y\|_2$ with $L_j = \|W_j\|_2 \prod_k \|W_k\|\,\mathrm{Lip}(\sigma_k)$

    Each equation multiplies by its operator norm: that of a matrix by Gram iteration, that of any other linear map A by
    Schur's test $\|A\|_2^2 \le \|A\|_1 \|A\|_\infty$. The last linear maps are rows of one matrix and count with the
    norm of the row. Crude for a network that was not made for it: a product of bounds, of which each is at least as
    large as the truth.

    Cost: that of 2 F and 2 B in products, and the Gram iterations of the matrices.

    Args:
        f: Any JAX function of one array that returns one row of numbers.
        like: An array, or `jax.ShapeDtypeStruct`, of the shape and dtype that it takes.

    Raises:
        ValueError: If an equation has no such constant everywhere, such as the square.

    Example:
        >>> w = jnp.array([[3.0, 0.0], [4.0, 1.0]])
        >>> lipschitz_bound(lambda x: jax.nn.relu(x) @ w, jnp.zeros(2)).round(3).tolist()
        [5.0, 1.0]

    Reference:
        Szegedy et al. 2014, Intriguing properties of neural networks, arXiv:1312.6199 (section 4.3). Delattre et al.
        2023, Efficient bound of Lipschitz constant for convolutional layers by Gram iteration, arXiv:2305.16173.
    """
    program = grouped(trace(f, like))
    size = program.avals[program.output].size
    return constants_of(linear_tail(program, jnp.eye(size, dtype=jnp.float32)))


def constants_of(program: Program) -> Float[Array, " m"]:
    """The bounds of a program whose last linear maps are rows of one matrix, as `linear_tail` makes it.

    Example:
        >>> constants_of(linear_tail(trace(lambda x: 2 * x, jnp.ones(2)), jnp.eye(2))).round(3).tolist()
        [2.0, 2.0]

    Reference:
        Szegedy et al. 2014, arXiv:1312.6199.
    """
    values, gains = dict(program.constants), {program.input: jnp.float32(1)}
    for node in program.nodes:
        if not program.bounded.issuperset(node.outputs):
            evaluate(node, values)
            continue
        (output,) = node.outputs
        gains[output] = _gain(node, program, values, gains)
    rows = _row_norms(program, values, gains)
    # Rounding of the norms; the constants of Gram iteration are rounded up already.
    return (rows * (1 + 1e-5)).astype(jnp.float32)


def _row_norms(program: Program, values: dict, gains: dict) -> Array:
    """For each output the sum of norms of rows times gains, where the last equations are products with matrices."""
    makers = {node.outputs[0]: node for node in program.nodes}

    def norms(i: int) -> Array:
        node = makers.get(i)
        known = [] if node is None else [k for k in node.inputs if k not in program.bounded]
        if node is not None and node.name == "add":
            return sum((norms(k) for k in node.inputs if k in program.bounded), jnp.zeros(1))
        if node is not None and node.name == "dot_general" and len(known) == 1 and values[known[0]].ndim == 2:
            (taken,) = [k for k in node.inputs if k in program.bounded]
            return _root(jnp.square(values[known[0]]).sum(1)) * gains[taken]
        return gains[i]

    return jnp.broadcast_to(norms(program.output), program.avals[program.output].shape)


def _gain(node: Node, program: Program, values: dict, gains: dict) -> Array:
    """The Lipschitz constant of a value with respect to the input."""
    taken = [gains[i] for i in node.inputs if i in program.bounded]
    name, known = node.name, [values[i] for i in node.inputs if i not in program.bounded]
    # Only the shapes of boxes are looked at.
    boxes = {i: Box(*cast(Any, [program.avals[i]] * 2)) for i in node.inputs if i in program.bounded}
    shapes = [boxes[i] if i in boxes else values[i] for i in node.inputs]
    affine = affine_of(node, tuple(shapes))
    if affine is not None:
        norms = _norms(node, affine, known, [program.avals[i] for i in node.inputs if i in program.bounded])
        return jnp.stack([n * g for n, g in zip(norms, taken, strict=True)]).sum()
    if name in _STEEPEST:
        return jnp.float32(_STEEPEST[name]) * taken[0]
    if name in ("leaky_relu", "elu"):
        return jnp.maximum(1.0, jnp.abs(known[0])) * taken[0]
    if name in _OF_TWO:
        return jnp.linalg.norm(jnp.stack(taken))
    if name in _OVER_AXES:
        return taken[0]
    if name in _OVER_WINDOWS:
        # An entry is in at most so many windows, each of which moves by no more than it does.
        p, overlap = node.params, 1
        for n, s in zip(p["window_dimensions"], p["window_strides"], strict=True):
            overlap *= -(-n // s)
        return overlap**0.5 * taken[0]
    raise ValueError(
        f"lipschitz_bound: {name} has no Lipschitz constant that is known everywhere, expected linear maps and "
        "activations of bounded slope; give the constant yourself"
    )


def _norms(node: Node, affine: Affine, known: list, avals: list) -> list:
    """An upper bound of the operator norm with respect to each operand."""
    if affine.linear is None or affine.absolute is None:
        return [jnp.float32(0) for _ in avals]
    if node.name == "dot_general" and known[0].ndim == 2 and not node.params["dimension_numbers"][1][0]:
        ((lhs, rhs), _) = node.params["dimension_numbers"]
        if len(lhs) == 1 and len(rhs) == 1:
            return [linalg.gram_bound(jnp.asarray(known[0], jnp.float32))]
    like = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in avals]
    absolute: Any = affine.absolute
    ones = [jnp.ones(a.shape, jnp.float32) for a in avals]
    norms = []
    for k in range(len(avals)):
        one = lambda v, k=k: absolute(*(v if i == k else jnp.zeros_like(o) for i, o in enumerate(ones)))
        forward = one(ones[k])
        (backward,) = jax.linear_transpose(one, like[k])(jnp.ones_like(forward))
        norms.append(_root(forward.max() * backward.max()))
    return norms


def _root(square: Array) -> Array:
    """The square root, with a gradient at zero: the margin of a class to itself is a row of zeros."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)

r"""Scores: functions from one input to one number, made from a model and what is asked of it.

Each maker returns a `jax.tree_util.Partial` over a function of this module, so a score is itself a pytree: it crosses
`jax.jit`, its weights and its label are traced leaves, and another label or new weights do not recompile.
This is the one place where a single input becomes a batch of one.

A model is any callable from a batch `(b, …)` to one row of numbers each `(b, m)`: an `nnx.Module`, an Equinox module,
`Partial(linen_model.apply, variables)`, a plain function. The `head` of a network is a model too, of activations:
`logit(network.head, 281)` scores the activations of one image.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from sparks_jax.types import Model, Scalar, Score

Label = int | Int[Any, ""]


def logit(model: Model, label: Label) -> Score:
    r"""The output of a class before the softmax.

    $f(x) = z_c(x)$

    Args:
        model: From a batch `(b, …)` to logits `(b, m)`.
        label: The class $c$, in 0 … m − 1. A traced label outside the classes gives NaN.

    Raises:
        ValueError: When the score is evaluated, if the model does not return one row or the label is not a class.

    Example:
        >>> model = lambda x: x.reshape(x.shape[0], -1)
        >>> logit(model, 2)(jnp.array([0.0, 1.0, 5.0])).item()
        5.0

    Reference:
        Fel 2024, Sparks of Explainability, arXiv:2502.01048.
    """
    return _score(_logit, model, label)


def log_prob(model: Model, label: Label) -> Score:
    r"""The logarithm of a class's probability.

    $f(x) = z_c(x) - \log \sum_j e^{z_j(x)}$

    Args:
        model: From a batch `(b, …)` to logits `(b, m)`.
        label: The class $c$, in 0 … m − 1.

    Raises:
        ValueError: As `logit`.

    Example:
        >>> log_prob(lambda x: x, 0)(jnp.zeros(2)).item()
        -0.6931471824645996

    Reference:
        Simonyan et al. 2014, Deep inside convolutional networks, arXiv:1312.6034.
    """
    return _score(_log_prob, model, label)


def probability(model: Model, label: Label) -> Score:
    r"""The softmax probability of a class.

    $f(x) = e^{z_c(x)} / \sum_j e^{z_j(x)}$

    Args:
        model: From a batch `(b, …)` to logits `(b, m)`.
        label: The class $c$, in 0 … m − 1.

    Raises:
        ValueError: As `logit`.

    Example:
        >>> probability(lambda x: x, 0)(jnp.zeros(4)).item()
        0.25

    Reference:
        Petsiuk et al. 2018, RISE, arXiv:1806.07421.
    """
    return _score(_probability, model, label)


def margin(model: Model, label: Label, versus: Label | None = None) -> Score:
    r"""How far a class is ahead of another one.

    $f(x) = z_c(x) - z_{c'}(x)$, with $c'$ the best other class of $x$ unless given.

    Args:
        model: From a batch `(b, …)` to logits `(b, m)`.
        label: The class $c$, in 0 … m − 1.
        versus: The class $c'$; None for $\max_{j \ne c} z_j$.

    Raises:
        ValueError: As `logit`.

    Example:
        >>> margin(lambda x: x, 0)(jnp.array([3.0, 1.0, 2.0])).item()
        1.0

    Reference:
        Serrurier et al. 2021, Achieving robustness in classification using optimal transport, arXiv:2006.06520.
    """
    return _score(_margin_to_best, model, label) if versus is None else _score(_margin, model, label, versus)


def neuron(features: Model, index: Any) -> Score:
    r"""One unit of an activation, or the mean of one channel over all positions.

    $f(x) = a_i(x)$ for a full index, $f(x) = \frac1{|P|} \sum_{p \in P} a_{p,i}(x)$ for a channel.

    Args:
        features: From a batch `(b, …)` to activations `(b, …, d)`.
        index: The channel (an integer), or a tuple with one integer per axis of the activations of one input.

    Raises:
        ValueError: When the score is evaluated, if the index does not fit the activations.

    Example:
        >>> act = lambda x: x  # activations are the input itself
        >>> x = jnp.arange(8.0).reshape(2, 2, 2)
        >>> neuron(act, 1)(x).item(), neuron(act, (0, 1, 1))(x).item()
        (4.0, 3.0)

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    return _score(_neuron, features, index)


def direction(features: Model, vector: Float[Any, " d"]) -> Score:
    r"""The mean activation along a direction of feature space.

    $f(x) = \frac1{|P|} \sum_{p \in P} \langle a_p(x), v \rangle$

    Args:
        features: From a batch `(b, …)` to activations `(b, …, d)`.
        vector: The direction $v$, used as it is (not normalised).

    Raises:
        ValueError: When the score is evaluated, if the last axis of the activations is not as long as the vector.

    Example:
        >>> direction(lambda x: x, jnp.array([1.0, -1.0]))(jnp.ones((2, 2, 2))).item()
        0.0

    Reference:
        Kim et al. 2018, Testing with concept activation vectors, arXiv:1711.11279.
    """
    return _score(_direction, features, vector)


def concept(features: Model, dictionary: Any, k: Label, *, pool: Callable[[Array], Scalar] = jnp.mean) -> Score:
    r"""How much of a concept there is: the mean of its code over positions, or its maximum.

    $f(x) = \mathrm{pool}_p\, u_{pk}$ with $u = \mathrm{encoder}(D, (a(x) - \mu) / \sigma)$

    Its derivative goes through the encoder: of non-negative least squares, by the closed form.

    Args:
        features: From a batch `(b, …)` to activations `(b, …, d)`.
        dictionary: A `concepts.Dictionary`, or what has its `encode`.
        k: The concept, in 0 … k − 1. A traced one outside the concepts gives NaN.
        pool: From the codes of all positions to one number: `jnp.mean` or `jnp.max`.

    Raises:
        ValueError: When the score is evaluated, if `k` is no concept or the atoms have another length.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> concept(lambda x: x, colours, 1)(jnp.array([[1.0, 2.0], [3.0, -4.0]])).item()  # of 2 and 0
        1.0

    Reference:
        Fel et al. 2023, CRAFT, arXiv:2211.10154.
    """
    return _score(_concept, features, dictionary, k, as_pytree(pool))


def segmentation(model: Model, zone: Float[Any, "h w m"]) -> Score:
    r"""What a segmentation network says of a zone: the mean of its output where the zone is not zero.

    $f(x) = \sum_{ijk} t_{ijk}\, z_{ijk}(x) \,/\, |\{t \ne 0\}|$

    Args:
        model: From a batch `(b, …)` to a map of numbers for each class `(b h w m)`.
        zone: Weights $t$: 1 at the pixels and the class explained, 0 elsewhere; signs compare two zones.

    Raises:
        ValueError: When the score is evaluated, if the zone has another shape than the output.

    Example:
        >>> zone = jnp.zeros((2, 2, 2)).at[0, :, 1].set(1.0)  # class 1 on the first row
        >>> segmentation(lambda x: x, zone)(jnp.arange(8.0).reshape(2, 2, 2)).item()
        2.0

    Reference:
        Fel et al. 2022, Xplique: a deep learning explainability toolbox, arXiv:2206.04394.
    """
    return _score(_segmentation, model, zone)


def detection(model: Model, box: Float[Any, "*n d"]) -> Score:
    r"""How well a detector still sees a box: its best match among the predictions.

    $f(x) = \frac{1}{n} \sum_{r} \max_{p} \mathrm{IoU}(p, r)\; o_p\; \cos(c_p, c_r)$, over the n boxes $r$ given and the
    predictions $p$ of overlap, objectness $o$ and class scores $c$. Rows of zeros are padding, among both.

    Args:
        model: From a batch `(b, …)` to predictions `(b p d)` before non-maximum suppression, each
            `(x1, y1, x2, y2, objectness, class scores …)`.
        box: One box `(d,)` or several `(n d)`, in the same layout.

    Raises:
        ValueError: When the score is evaluated, if the layouts differ.

    Example:
        >>> boxes = jnp.array([[0.0, 0.0, 2.0, 2.0, 1.0, 0.0, 1.0]])
        >>> half = boxes.at[0, 2].set(1.0).at[0, 4].set(0.8)  # overlap 1/2, objectness 0.8, the same class
        >>> round(detection(lambda x: x, boxes[0])(half).item(), 4)
        0.4

    Reference:
        Petsiuk et al. 2021, Black-box explanation of object detectors via saliency maps, arXiv:2006.03204.
    """
    return _score(_detection, model, box)


def logits(model: Model) -> Callable[[Array], Float[Array, " m"]]:
    r"""All outputs of one input, for methods that compare classes: not a score, and not told which class.

    $f(x) = (z_0(x), \dots, z_{m-1}(x))$

    Args:
        model: From a batch `(b, …)` to logits `(b, m)`.

    Raises:
        ValueError: When evaluated, if the model does not return one row.

    Example:
        >>> logits(lambda x: 2 * x)(jnp.array([0.0, 1.0, 5.0])).tolist()
        [0.0, 2.0, 10.0]

    Reference:
        Fel et al. 2023, Don't lie to me!, arXiv:2202.07728 (a method that compares classes).
    """
    return Partial(_row, as_pytree(model))


def as_pytree(fn: Any) -> Any:
    """A callable as a pytree, so that it crosses `jax.jit` with its arrays traced.

    A module is one already; a method becomes a `Partial` that carries its module; a function becomes static code.

    Args:
        fn: A module, a method of one, a `Partial`, or a plain function.

    Raises:
        TypeError: If it cannot be called.

    Example:
        >>> jax.tree.leaves(as_pytree(jnp.sin)), jax.tree.leaves(as_pytree(Partial(jnp.add, 1)))
        ([], [1])

    Reference:
        The JAX authors 2018, JAX: composable transformations of Python and NumPy programs.
    """
    if not callable(fn):
        raise TypeError(f"expected a model, a function from a batch to rows of numbers, got {type(fn).__name__}")
    if not _is_leaf(fn):
        return fn
    owner = getattr(fn, "__self__", None)
    is_method = owner is not None and not _is_leaf(owner) and hasattr(fn, "__func__")
    return Partial(getattr(fn, "__func__"), owner) if is_method else Partial(fn)  # noqa: B009


def _is_leaf(tree: Any) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(0)


def _score(evaluate: Any, model: Any, *asked: Any) -> Score:
    return Partial(evaluate, as_pytree(model), *asked)


def _row(model: Model, x: Array) -> Float[Array, " m"]:
    """The model's numbers for one input."""
    out = model(x[None])
    if out.ndim != 2 or out.shape[0] != 1:
        raise ValueError(
            f"the model returned shape {out.shape} for a batch of one input of shape {x.shape}, expected (1, classes); "
            "explain one input at a time and map batches with jax.vmap"
        )
    return out[0]


def _entry(row: Float[Array, " m"], label: Any, of: str = "classes") -> Scalar:
    """`row[label]`: an error or NaN outside the classes, where JAX alone would silently take the nearest one."""
    if not isinstance(label, Tracer) and not 0 <= int(label) < row.shape[0]:
        raise ValueError(f"label {int(label)} is outside the {row.shape[0]} {of} 0 … {row.shape[0] - 1} of the model")
    return row.at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _logit(model: Model, label: Any, x: Array) -> Scalar:
    return _entry(_row(model, x), label)


def _log_prob(model: Model, label: Any, x: Array) -> Scalar:
    return _entry(jax.nn.log_softmax(_row(model, x)), label)


def _probability(model: Model, label: Any, x: Array) -> Scalar:
    # Not `jax.nn.softmax`, whose derivative does not trace over an explicit device mesh (jax 0.10.1).
    return jnp.exp(_log_prob(model, label, x))


def _margin(model: Model, label: Any, versus: Any, x: Array) -> Scalar:
    row = _row(model, x)
    return _entry(row, label) - _entry(row, versus)


def _margin_to_best(model: Model, label: Any, x: Array) -> Scalar:
    row = _row(model, x)
    return _entry(row, label) - jnp.where(jnp.arange(row.shape[0]) == label, -jnp.inf, row).max()


def _neuron(features: Model, index: Any, x: Array) -> Scalar:
    acts = features(x[None])[0]
    if not isinstance(index, tuple):
        return jax.vmap(_entry, (0, None))(acts.reshape(-1, acts.shape[-1]), index).mean()
    if len(index) != acts.ndim:
        raise ValueError(f"neuron index {index} has {len(index)} entries for activations of shape {acts.shape}")
    return acts[index]


def _direction(features: Model, vector: Array, x: Array) -> Scalar:
    acts = features(x[None])[0]
    if acts.shape[-1] != vector.shape[0]:
        raise ValueError(f"direction has {vector.shape[0]} entries for activations of shape {acts.shape}")
    return (acts @ vector).reshape(-1).mean()


def _concept(features: Model, dictionary: Any, k: Any, pool: Any, x: Array) -> Scalar:
    codes = dictionary.encode(features(x[None])[0])
    return pool(jax.vmap(lambda u: _entry(u, k, "concepts"))(codes.reshape(-1, codes.shape[-1])))


def _segmentation(model: Model, zone: Array, x: Array) -> Scalar:
    out = model(x[None])[0]
    if out.shape != zone.shape:
        raise ValueError(f"zone has shape {zone.shape} for an output of shape {out.shape} for one image")
    return (zone * out).sum() / jnp.maximum((zone != 0).sum(), 1)


def _detection(model: Model, box: Array, x: Array) -> Scalar:
    seen, asked = model(x[None])[0], jnp.atleast_2d(box)
    if seen.ndim != 2 or seen.shape[1] != asked.shape[1] or asked.shape[1] < 6:
        raise ValueError(
            f"box has shape {box.shape} for predictions of shape {seen.shape} for one image, expected (p, d)"
            " and (d,) or (n, d), each row (x1, y1, x2, y2, objectness, class scores …)"
        )
    match = _overlap(seen, asked) * seen[:, None, 4] * _cosine(seen[:, 5:], asked[:, 5:])
    real = (asked != 0).any(1)
    return jnp.where(real, match.max(0), 0).sum() / jnp.maximum(real.sum(), 1)


def _overlap(p: Float[Array, "p d"], r: Float[Array, "n d"]) -> Float[Array, "p n"]:
    """Intersection over union of every two boxes; zero where both are empty."""
    p, r = p[:, None], r[None]
    sides = jnp.minimum(p[..., 2:4], r[..., 2:4]) - jnp.maximum(p[..., :2], r[..., :2])
    # A clip, not a maximum with 0, which methods with a rule for ReLUs would take for one.
    shared = jnp.clip(sides, 0).prod(-1)
    areas = [jnp.clip(b[..., 2:4] - b[..., :2], 0).prod(-1) for b in (p, r)]
    union = areas[0] + areas[1] - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def _cosine(a: Float[Array, "p m"], b: Float[Array, "n m"]) -> Float[Array, "p n"]:
    """Cosine of every two rows; zero, with a zero gradient, where one of them is."""
    squares = jnp.square(a).sum(1)[:, None] * jnp.square(b).sum(1)[None]
    # A sum, not a matrix product, which methods that look for layers would take for one of the network.
    products = (a[:, None] * b[None]).sum(-1)
    return jnp.where(squares > 0, products / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

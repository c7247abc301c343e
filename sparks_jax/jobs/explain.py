"""Maps of many images: `method(f, x, …)` explains one image, here it explains them all.

A method says by the names of its positional parameters what it is asked about:

| parameters | what it is given |
| --- | --- |
| `f, x` | the score of the image's class; the image |
| `features, head, x` | the first half of the network; a score of the second |
| `f, x, label` | the logits of one image, `(h w c) -> (m,)`; the image; its class |
| `features, head, x, label` | the first half; the logits of the second, of the activations of one image |
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import PRNGKeyArray

from sparks_jax import sensitivity
from sparks_jax.jobs.batches import check_batch, name_of, over_images, positional, takes
from sparks_jax.scores import Score, logit, logits
from sparks_jax.types import Box

ScoreMaker = Callable[[Any, Any], Score]


def explain(
    method: Callable[..., Any],
    model: Any,
    images: Any,
    labels: Any,
    *,
    key: PRNGKeyArray,
    score: ScoreMaker = logit,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    progress: bool | None = False,
    **options: Any,
) -> Any:
    r"""Explain a score of every image with one attribution method.

    $\phi_i = \mathrm{method}(\mathrm{score}(\mathrm{model}, y_i), x_i)$ for each image $x_i$ and label $y_i$

    Compiles once per method, options and image size: other weights, labels or numbers of images do not recompile. The
    key is shared by all images, so a map does not depend on its batch or on the number of devices.

    Args:
        method: Any of `sparks_jax.attribution`, EVA of `sparks_jax.verify`, or your own: `(f, x, *, key, chunk, …)`, or
            `(f, x, label, *, …)` with logits f.
        model: From a batch of images `(b h w c)` to `(b m)`: a module, a `Partial`, a function. Methods of the CAM
            family use its two halves, `model.features` and `model.head`.
        images: `(n h w c)` floating-point images, as the model takes them.
        labels: `(n,)` class explained in each image.
        key: Randomness, for the methods that take some.
        score: From (model, label) to a score: one of `sparks_jax.scores`. Methods that take the label read logits.
        mesh: Devices over which images are spread; None for the default device.
        chunk: Evaluations of the model at once on each device; None: 4 on a CPU, 64 on an accelerator. When memory runs
            out it is halved, with a warning.
        progress: Show a bar on stderr; None to show it only on a terminal.
        **options: Passed to the method.

    Returns:
        The maps, stacked, as numpy arrays with the structure of what the method returns.

    Raises:
        ValueError: For images that are not a finite batch, labels outside the classes, a model without halves.
        TypeError: Without an option that the method needs, such as the radius of EVA.

    Example:
        >>> from sparks_jax.attribution import saliency
        >>> model = lambda x: x.reshape(x.shape[0], -1)  # the classes are the pixels
        >>> images = np.ones((3, 2, 2, 1), np.float32)
        >>> maps = explain(saliency, model, images, np.array([0, 1, 2]), key=jax.random.key(0))
        >>> maps.shape, maps[2].ravel().tolist()
        ((3, 2, 2, 1), [0.0, 0.0, 1.0, 0.0])

    Reference:
        Fel 2024, Sparks of Explainability, arXiv:2502.01048.
    """
    name, images, labels = name_of(method), np.asarray(images), np.asarray(labels)
    check_batch(name, model, images, labels)
    check_method(method, model, options)
    return over_images(
        Partial(_explain_one, method, score), name, model, images, labels, (),
        lambda chunk: options_of(method, key, chunk) | options,
        streams=takes(method, "chunk"), mesh=mesh, chunk=chunk, progress=progress,
    )  # fmt: skip


def asked(method: Callable[..., Any], score: ScoreMaker, model: Any, label: Any, x: Any) -> tuple[Any, ...]:
    """What a method takes by position: what it is asked about, the image, and the label if it compares classes itself.

    Example:
        >>> from sparks_jax.attribution import saliency
        >>> model, x = lambda x: x.reshape(1, -1), jnp.arange(4.0).reshape(2, 2, 1)
        >>> f, _ = asked(saliency, logit, model, 2, x)
        >>> g, _, label = asked(lambda f, x, label: x, logit, model, 2, x)
        >>> f(x).item(), g(x).tolist(), label
        (2.0, [0.0, 1.0, 2.0, 3.0], 2)
    """
    compares = "label" in positional(method)
    of = logits if compares else lambda half: score(half, label)
    about = (model.features, of(model.head)) if takes(method, "features") else (of(model),)
    return (*about, x, label) if compares else (*about, x)


def options_of(function: Callable[..., Any], key: PRNGKeyArray, chunk: int) -> dict[str, Any]:
    """The key and the chunk, for a function that takes them.

    Example:
        >>> options_of(lambda f, x, *, chunk: x, jax.random.key(0), 4)
        {'chunk': 4}
    """
    return {name: value for name, value in (("key", key), ("chunk", chunk)) if takes(function, name)}


def check_method(method: Callable[..., Any], model: Any, options: dict[str, Any]) -> None:
    """Refuse a method that cannot be run on a model, or not with these options, and say what to pass instead.

    Args:
        method: As in `explain`.
        model: As in `explain`.
        options: Given to the method, besides the key and the chunk.

    Raises:
        ValueError: If the method takes `features` and the model has no `features` and `head`.
        TypeError: If an option without a default is missing.

    Example:
        >>> check_method(lambda f, x, *, radius: x, None, {})
        Traceback (most recent call last):
        TypeError: <lambda>: radius is not given and has no default; add radius=… to the options
    """
    name, taken = name_of(method), inspect.signature(method).parameters.values()
    if takes(method, "features") and not (hasattr(model, "features") and hasattr(model, "head")):
        raise ValueError(
            f"{name}: {type(model).__name__} has no `features` and `head`, the halves of a network that "
            f"this method needs; call {name}({', '.join(positional(method))}) with your own functions"
        )
    for needed in (p.name for p in taken if p.kind is p.KEYWORD_ONLY and p.default is p.empty):
        if needed not in (*options, "key", "chunk"):
            raise TypeError(f"{name}: {needed} is not given and has no default; add {needed}=… to the options")


def _explain_one(method: Any, score: Any, model: Any, label: Any, x: Any, rest: Any, options: dict[str, Any]) -> Any:
    del rest
    return method(*asked(method, score, model, label, x), **options)


def count_evaluations(
    method: Callable[..., Any], shape: tuple[int, int, int], *extra: Any, num_classes: int = 1000, **options: Any
) -> int:
    """How many times a method evaluates its score on an image of this shape, read from its program: nothing is run.

    An evaluation with its gradient counts once, a bound twice (what intervals cost), and the filling of a last, short
    chunk counts too. Of two halves the first is evaluated at least once, also where the second is not read; where the
    second gives logits to be bounded, evaluations of the first are counted.

    Args:
        method: `(f, x, *extra, *, key, …)`, an attribution method or a metric, or of the CAM family, whose head is the
            score, or of the family of EVA.
        shape: Height, width and channels.
        *extra: What the method takes after the image: the heat map of a metric.
        num_classes: Of the network, for methods that compare classes.
        **options: Passed to the method.

    Raises:
        ValueError: As `sensitivity.count_evaluations`.

    Example:
        >>> from sparks_jax.attribution import integrated_gradients
        >>> count_evaluations(integrated_gradients, (4, 4, 3), num_steps=10)
        10

    Reference:
        Fel, Cadène et al. 2021, Look at the variance!, arXiv:2111.04138 (costs in forward passes).
    """
    options |= counted_options(method)

    def run(f: Any, x: Any) -> Any:
        return method(*asked(method, logit, Counted(method, f, num_classes), 0, x), *extra, **options)

    count = sensitivity.count_evaluations(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    return max(count, 1) if takes(method, "features") else count


class Counted:
    """A network whose evaluations count: made of a score that `sensitivity.count_evaluations` hands out."""

    def __init__(self, method: Callable[..., Any], f: Score, num_classes: int):
        """Make it for one method: heads that give logits are bounded, not evaluated, and their trunks count."""
        self.f, self.num_classes = f, num_classes
        self.first = takes(method, "features") and "label" in positional(method)

    def features(self, batch: Any) -> Any:
        """The images themselves."""
        return batch + jax.vmap(self.f)(batch)[:, None, None, None] if self.first else batch

    def head(self, acts: Any) -> Any:
        """The same number for each class."""
        numbers = acts.reshape(len(acts), -1).sum(1) if self.first else jax.vmap(self.f)(acts)
        return jnp.broadcast_to(numbers[:, None], (len(acts), self.num_classes))

    def __call__(self, batch: Any) -> Any:
        """Counts once for each image."""
        return self.head(self.features(batch))


def counted_options(method: Callable[..., Any]) -> dict[str, Any]:
    """Options of a method whose evaluations are counted: any key, and a bound that evaluates both ends.

    Example:
        >>> from sparks_jax.attribution import saliency
        >>> counted_options(saliency)
        {}
    """
    ends = lambda f, box: Box(f(box.lower), f(box.upper))
    known = {"key": jax.random.key(0), "bound": ends}
    return {name: value for name, value in known.items() if takes(method, name)}

r"""Explanations with verified perturbation analysis: which cells must an adversary move?

For a set of perturbations B the adversarial overlap is how far another class can get ahead of the label anywhere in it.
Fix one cell at the image and see how much less that is: no baseline and no sampling, and every perturbation counts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.images import for_images
from sparks_jax.types import Box, Heatmap, Image
from sparks_jax.verify.ibp import ibp
from sparks_jax.verify.lipschitz import constants_of
from sparks_jax.verify.margins import Bound, folded_margins, names_of_rules, without_label
from sparks_jax.verify.regions import ball

Grid = int | tuple[int, int]
Target = None | int | Sequence[int]


class Overlap(NamedTuple):
    """How far other classes can be proven to stay behind, or to get ahead at most.

    Attributes:
        everything: `()` upper bound of the lead of another class when every pixel may move.
        fixed: `(rows, columns)` the same with each cell in turn fixed at the image.
    """

    everything: Float[Array, ""]
    fixed: Float[Array, "rows columns"]


@for_images
def adversarial_overlap(
    f: Callable[[Image], Array],
    x: Image,
    label: Any,
    *,
    radius: Any,
    grid: Grid = 7,
    bound: Bound = ibp,
    target: Target = None,
    clip: tuple[Any, Any] | None = None,
    chunk: int = 16,
) -> Overlap:
    r"""How far another class can get ahead of the label around an image, and what is left of it when a cell is fixed.

    $\overline{AO}(B) \ge \max_{x' \in B} \max_{j \ne c} f_j(x') - f_c(x')$, and $\overline{AO}(B_u)$ for each cell u

    $B$ is the box of the given radius around the image and $B_u$ the part of it in which cell u is the image's. At or
    below 0 the label is certified: where `fixed[u] <= 0`, whatever takes the label away changes cell u. Since
    $B_u \subset B$, a bound of $B_u$ that is larger is replaced by that of $B$. NaN, of which nothing is known, becomes
    infinity.

    Cost: grid² + 1 bounds; 100 F in products for `ibp` at the defaults.

    Args:
        f: From one image to logits `(m,)`; leave a final softmax out.
        x: One image.
        label: The class c that is explained; if it is traced and none of the classes, all is NaN.
        radius: How far each number of the image may move.
        grid: Cells on each side, or on both; as many as pixels for a map of pixels. At most one cell for each pixel.
        bound: `ibp`, `crown`, or any function (f, box) -> Box; options by `functools.partial`.
        target: Only these classes may overtake: what keeps the image from becoming one of them.
        clip: The range of images, for example (0, 1).
        chunk: Cells bounded at once.

    Raises:
        UnsupportedPrimitive: As the bound.
        ValueError: A label or a target outside the classes, a target that is the label, a bad radius or grid.

    Example:
        >>> w = jnp.array([[2.0, 1, 0, -1], [0, 1, 1, 0]])
        >>> ao = adversarial_overlap(lambda x: w @ x.ravel(), jnp.ones((1, 4, 1)), 0, radius=0.25, grid=4)
        >>> ao.everything.item(), ao.fixed.tolist()  # the lead is 0 at the image: no cell alone certifies it
        (1.0, [[0.5, 1.0, 0.75, 0.75]])

    Reference:
        Fel et al. 2023, Don't lie to me!, arXiv:2202.07728.
    """
    who = "eva"
    around = _around(x, radius, clip, who)
    margins = folded_margins(f, around(_all_of(x)), label, who=who, named=names_of_rules(bound))
    lead = _lead(margins.avals[margins.output].shape[0], label, target, who)
    return _overlap(lambda mask: lead(bound(margins, around(mask)).upper), x, grid, chunk, who)


@for_images
def eva(
    f: Callable[[Image], Array],
    x: Image,
    label: Any,
    *,
    radius: Any,
    grid: Grid = 7,
    bound: Bound = ibp,
    target: Target = None,
    clip: tuple[Any, Any] | None = None,
    chunk: int = 16,
) -> Heatmap:
    r"""How much less an adversary can be proven to be able to do when a cell is fixed at the image.

    $\phi_u = \overline{AO}(B) - \overline{AO}(B_u) \ge 0$, of the bounds of `adversarial_overlap`

    Margins have the subtraction folded in (`margins`): what two classes share has no part in the map. The map is an
    ordering that rests on sound bounds, and says little where they are vacuous: compare `adversarial_overlap` with what
    an attack reaches. Intervals grow with every layer; a deep network that was not trained for them needs `crown`,
    `eva_hybrid` or `lipschitz_eva`.

    Cost: grid² + 1 bounds; 100 F in products for `ibp` at the defaults. Unsigned.

    Args:
        f: From one image to logits `(m,)`; leave a final softmax out.
        x: One image.
        label: The class c that is explained.
        radius: How far each number of the image may move.
        grid: Cells on each side, or on both; as many as pixels for a map of pixels. At most one cell for each pixel.
        bound: `ibp`, `crown`, or any function (f, box) -> Box; options by `functools.partial`.
        target: Only these classes may overtake: what keeps the image from becoming one of them.
        clip: The range of images, for example (0, 1).
        chunk: Cells bounded at once.

    Returns:
        A map that is constant on each cell; zeros where the bound of everything is infinite.

    Raises:
        UnsupportedPrimitive: As the bound.
        ValueError: A label or a target outside the classes, a target that is the label, a bad radius or grid.

    Example:
        >>> w = jnp.array([[2.0, 1, 0, -1], [0, 1, 1, 0]])  # linear: the radius times |w_0 - w_1|
        >>> eva(lambda x: w @ x.ravel(), jnp.ones((1, 4, 1)), 0, radius=0.5, grid=4).tolist()
        [[1.0, 0.0, 0.5, 0.5]]

    Reference:
        Fel et al. 2023, Don't lie to me! Robust and efficient explainability with verified perturbation analysis,
        arXiv:2202.07728.
    """
    options: Any = dict(radius=radius, grid=grid, bound=bound, target=target, clip=clip, chunk=chunk)
    return _painted(adversarial_overlap(f, x, label, **options), x)


@for_images
def eva_hybrid(
    features: Callable[..., Array],
    head: Callable[..., Array],
    x: Image,
    label: Any,
    *,
    key: PRNGKeyArray,
    radius: Any,
    grid: Grid = 7,
    num_samples: int = 64,
    bound: Bound = ibp,
    target: Target = None,
    clip: tuple[Any, Any] | None = None,
    chunk: int = 16,
) -> Heatmap:
    r"""EVA from the activations on, inside a box of activations that was sampled: for networks too deep to bound.

    $\hat P_u = [\min_i h(x + \delta_i), \max_i h(x + \delta_i)],\; \delta_i \in B_u$, and
    $\phi_u = \overline{AO}(\hat P) - \overline{AO}(\hat P_u)$ with the bounds of the head on the boxes

    **Not sound for the ball of images**: a sampled box is part of the true one, so nothing is certified. The samples
    are the image, the two corners, and uniform noise that is the same for all cells; a box that reaches further than
    that of all cells is cut by it.

    Cost: (grid² + 2) num_samples F of the features and grid² + 1 bounds of the head. Unsigned.

    Args:
        features: From a batch of images `(b h w c)` to activations `(b …)`.
        head: From the activations of one image to logits `(m,)`.
        x: One image.
        label: The class c that is explained.
        key: Draws the noise. Share it over a batch to give every image the same.
        radius: How far each number of the image may move.
        grid: As in `eva`.
        num_samples: Perturbations for each box, of which three are the image and the corners.
        bound: As in `eva`.
        target: As in `eva`.
        clip: As in `eva`.
        chunk: Perturbations evaluated at once.

    Raises:
        UnsupportedPrimitive: As the bound, for the head.
        ValueError: As `eva`, or fewer than three samples.

    Example:
        >>> w = jnp.array([[2.0, 1, 0, -1], [0, 1, 1, 0]])
        >>> features, head = lambda x: x.reshape(len(x), -1), lambda a: w @ a  # the corners make the box exact
        >>> eva_hybrid(features, head, jnp.ones((1, 4, 1)), 0, key=jax.random.key(0), radius=0.5, grid=4).tolist()
        [[1.0, 0.0, 0.5, 0.5]]

    Reference:
        Fel et al. 2023, arXiv:2202.07728 (section 3.3).
    """
    who = "eva_hybrid"
    if num_samples < 3:
        raise ValueError(f"{who}: num_samples is {num_samples}, expected at least 3: the image and the two corners")
    around = _around(x, radius, clip, who)

    def sampled(mask: Heatmap) -> Box:
        box = around(mask)

        def activations(i: Array) -> Array:
            noise = jax.random.uniform(jax.random.fold_in(key, i), x.shape, x.dtype)
            share = jnp.where(i == 1, 0, jnp.where(i == 2, 1, noise))
            point = jnp.where(i == 0, jnp.clip(x, *box), box.lower + share * (box.upper - box.lower))
            return features(point[None])[0]

        return Box(*stream.extremes_over(activations, jnp.arange(num_samples), chunk))

    everything = sampled(_all_of(x))
    margins = folded_margins(head, everything, label, who=who, named=names_of_rules(bound))
    lead = _lead(margins.avals[margins.output].shape[0], label, target, who)

    def overlap(mask: Heatmap) -> Array:
        # The same noise on fewer pixels may reach further: then it says that all of it can.
        box = Box(*(jnp.clip(end, *everything) for end in sampled(mask)))
        return lead(bound(margins, box).upper)

    return _painted(_overlap(overlap, x, grid, 1, who), x)


@for_images
def lipschitz_eva(
    features: Callable[..., Array],
    head: Callable[..., Array],
    x: Image,
    label: Any,
    *,
    radius: Any,
    lipschitz: Any = None,
    grid: Grid = 7,
    bound: Bound = ibp,
    target: Target = None,
    clip: tuple[Any, Any] | None = None,
    chunk: int = 16,
) -> Heatmap:
    r"""EVA at any depth: sound bounds as far as the activations, and how fast the rest can change from there.

    $\overline{AO}(B_u) = \max_{j \ne c} (f_j - f_c)(x) + L_j \|\rho(B_u)\|_2$ with
    $\rho_i = \max_{x' \in B_u} |h_i(x') - h_i(x)|$ bounded by intervals and $L_j$ a Lipschitz constant of
    $f_j - f_c$ in the activations

    Sound for the ball of images, without sampling, and without the growth of intervals along the depth. With one
    constant for all classes the map does not depend on the label: only the Lipschitz constants tell classes apart.

    Cost: grid² + 1 bounds of the features, and 1 F. Unsigned.

    Args:
        features: From a batch of images `(b h w c)` to activations `(b …)`, in evaluation mode.
        head: From the activations of one image to logits `(m,)`.
        x: One image.
        label: The class c that is explained.
        radius: How far each number of the image may move.
        lipschitz: A number L for a head that is L-Lipschitz from activations to logits in the Euclidean norm (1 for
            the networks of the Lipschitz pillar): then $L_j = \sqrt 2 L$. Or `(m,)` constants $L_j$ of the margins.
            None: upper bounds of $L_j$ by operator norms, as in `lipschitz_bound`.
        grid: As in `eva`.
        bound: The bound of the features: as in `eva`.
        target: As in `eva`.
        clip: As in `eva`.
        chunk: Cells bounded at once.

    Raises:
        UnsupportedPrimitive: As the bound, for the features.
        ValueError: As `eva`, or a head without a known Lipschitz constant.

    Example:
        >>> features, head = lambda x: x.reshape(len(x), -1) * jnp.array([[3.0, 4.0]]), lambda a: a
        >>> lipschitz_eva(features, head, jnp.ones((1, 2, 1)), 0, radius=1.0, grid=2).round(2)
        Array([[1.41, 2.83]], dtype=float32)

    Reference:
        Fel et al. 2023, arXiv:2202.07728. Tsuzuku, Sato & Sugiyama 2018, Lipschitz-margin training, arXiv:1802.04034
        (the factor of the square root of 2).
    """
    # Proof. Let x' be in B_u, a = h(x), a' = h(x'), d = a' - a, and m_j = f_j - f_c as functions of the activations.
    # The box of h on B_u contains a', and a as well since x is in B_u, so |d_i| <= max(upper_i - a_i, a_i - lower_i) =
    # rho_i and ||d||_2 <= ||rho||_2. Hence m_j(a') <= m_j(a) + L_j ||d||_2 <= m_j(a) + L_j ||rho||_2, and the maximum
    # over j bounds the overlap. If the head is L-Lipschitz, m_j = <e_j - e_c, head> and Cauchy-Schwarz gives
    # |m_j(a') - m_j(a)| <= ||e_j - e_c||_2 L ||d||_2 = sqrt(2) L ||d||_2.
    # If x itself is outside of the range `clip`, it is moved to its border first, so that it is in B_u.
    who = "lipschitz_eva"
    around = _around(x, radius, clip, who)
    trunk = lambda image: features(image[None])[0]
    here = trunk(x if clip is None else jnp.clip(x, *clip))
    margins = folded_margins(head, Box(here, here), label, who=who)
    at_image, m = margins(here), margins.avals[margins.output].shape[0]
    lead = _lead(m, label, target, who)
    if lipschitz is None:
        constants = constants_of(margins)
    else:
        given = jnp.asarray(lipschitz, here.dtype)
        if given.shape not in ((), (m,)):
            raise ValueError(f"{who}: lipschitz has shape {given.shape}, expected a number or ({m},)")
        constants = given if given.ndim else jnp.full(m, 2**0.5 * given)

    def overlap(mask: Heatmap) -> Array:
        box = bound(trunk, around(mask))
        rho = jnp.maximum(jnp.maximum(box.upper - here, here - box.lower), 0)
        return lead(at_image + constants * _norm(rho))

    return _painted(_overlap(overlap, x, grid, chunk, who), x)


def _around(x: Image, radius: Any, clip: Any, who: str) -> Callable[[Heatmap], Box]:
    """From a mask to the box in which only its pixels move."""
    if jnp.ndim(radius) > 3:
        raise ValueError(f"{who}: radius has shape {jnp.shape(radius)}, expected a number or one for each pixel")
    return lambda mask: ball(x, radius, clip=clip, mask=mask[:, :, None])


def _all_of(x: Image) -> Heatmap:
    """The mask in which everything moves."""
    return jnp.ones(x.shape[:2], x.dtype)


def _norm(v: Array) -> Array:
    """The Euclidean norm, with a gradient at zero."""
    square = jnp.square(v).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _lead(m: int, label: Any, target: Target, who: str) -> Callable[[Array], Array]:
    """From margins `(m,)` to the largest of those that count, of which nothing is known where they are NaN."""
    overtakers = np.ones(m, bool)
    if target is not None:
        chosen = [int(j) for j in (target if isinstance(target, Sequence) else [target])]
        known = None if isinstance(label, Tracer) else int(label)
        if not chosen or any(not 0 <= j < m or j == known for j in chosen):
            raise ValueError(f"{who}: target is {target}, expected other classes than the label, of 0 … {m - 1}")
        overtakers = np.isin(np.arange(m), chosen)

    def lead(margins: Array) -> Array:
        known = without_label(jnp.where(jnp.isnan(margins), jnp.inf, margins), label)
        return jnp.where(overtakers, known, -jnp.inf).max()

    return lead


def _overlap(overlap: Callable[[Heatmap], Array], x: Image, grid: Grid, chunk: int, who: str) -> Overlap:
    """The overlap of everything, and that with each cell fixed, at most as large."""
    rows, columns = _sides(x, grid, who)
    index = _cells(x, rows, columns)
    # The last number is no cell: nothing is fixed.
    found = stream.stack_over(lambda u: overlap((index != u).astype(x.dtype)), jnp.arange(rows * columns + 1), chunk)
    return Overlap(found[-1], jnp.minimum(found[:-1], found[-1]).reshape(rows, columns))


def _painted(found: Overlap, x: Image) -> Heatmap:
    """How much less the overlap is with each cell fixed, as a map; nothing is less than infinity by anything."""
    drops = jnp.where(jnp.isinf(found.everything), 0, found.everything - found.fixed)
    return drops.ravel()[_cells(x, *found.fixed.shape)].astype(x.dtype)


def _sides(x: Image, grid: Grid, who: str) -> tuple[int, int]:
    """Rows and columns of cells, none smaller than a pixel."""
    sides = (grid, grid) if isinstance(grid, int) else grid
    if any(n < 1 for n in sides):
        raise ValueError(f"{who}: grid is {grid}, expected at least one cell on each side")
    return min(sides[0], x.shape[0]), min(sides[1], x.shape[1])


def _cells(x: Image, rows: int, columns: int) -> Array:
    """The number of the cell that each pixel is in, as `images.nearest` enlarges a grid."""
    down, along = (
        np.floor((np.arange(length) + 0.5) * count / length).astype(int)
        for length, count in zip(x.shape[:2], (rows, columns), strict=True)
    )
    return jnp.asarray(down[:, None] * columns + along[None])

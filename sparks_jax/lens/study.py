r"""What is measured of one class, as a pure function of padded arrays: map it over classes with `jax.vmap`.

Rows that are not `valid` are padding: their activations are zero, so their codes are, and sums leave them out. Concepts
come by falling mean contribution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparks_jax import concepts, stream
from sparks_jax.concepts import Dictionary, Factorization
from sparks_jax.scores import logit

PERPLEXITY = 30.0
FIDELITY_SETS = 32
Factorize = Callable[..., Factorization]


class Study(NamedTuple):
    """The numbers of one class, of n images, v views, k concepts and m rivals.

    Attributes:
        dictionary: The concepts.
        again: Their atoms when fitted with another key, in their own order.
        codes: `(v k)` of views.
        image_codes: `(n gh gw k)` of whole images.
        importances: `(n k)` what each adds to the logit of the class.
        sobol: `(n k)` total Sobol' indices; NaN where the head is not affine.
        amounts: `(n k)` mean codes.
        logits: `(n m)` of the rivals.
        slopes: `(k m)` of these logits in amounts.
        predicted: `(n)` the class of the image, and of what the concepts explain of it.
        predicted_explained: `(n)`.
        explained: `(n)` logit of the class, of what the concepts explain.
        origin: Logit without any concept.
        relative_error: `(n)` of the activations of an image.
        residual_square, total_square: Of all activations, for $R^2$.
        deletion, insertion, fidelity: `(n)`.
        plane: `(n 2)` t-SNE of what matters to each image.
    """

    dictionary: Dictionary
    again: Float[Array, "k d"]
    codes: Float[Array, "v k"]
    image_codes: Float[Array, "n gh gw k"]
    importances: Float[Array, "n k"]
    sobol: Float[Array, "n k"]
    amounts: Float[Array, "n k"]
    logits: Float[Array, "n m"]
    slopes: Float[Array, "k m"]
    predicted: Int[Array, " n"]
    predicted_explained: Int[Array, " n"]
    explained: Float[Array, " n"]
    origin: Float[Array, ""]
    relative_error: Float[Array, " n"]
    residual_square: Float[Array, ""]
    total_square: Float[Array, ""]
    deletion: Float[Array, " n"]
    insertion: Float[Array, " n"]
    fidelity: Float[Array, " n"]
    plane: Float[Array, "n 2"]


def study(
    head: Any,
    views: Float[Array, "v d"],
    acts: Float[Array, "n gh gw d"],
    valid: Bool[Array, " n"],
    rivals: Int[Array, " m"],
    key: PRNGKeyArray,
    *,
    rank: int,
    factorize: Factorize,
    affine: bool,
    plane_steps: int,
    chunk: int,
) -> Study:
    """Factorize the views of a class and measure what its concepts mean for it.

    Cost: no evaluation of the features; a few dozen of the head for each image where it is affine.

    Args:
        head: From activations to logits.
        views: Activations of parts of the images; zero rows are padding.
        acts: Activations of whole images; zero where not `valid`.
        valid: Which images are there.
        rivals: Classes, the first of which is the class itself.
        key: Of the factorizations and of the sets of concepts.
        rank: How many concepts.
        factorize: `(acts, rank, *, key) -> Factorization`.
        affine: Whether the head is: then all is exact, and else by integrated gradients.
        plane_steps: Of t-SNE.
        chunk: Images at once.
    """
    key_fit, key_again, key_sets = jax.random.split(key, 3)
    both = jax.vmap(lambda key: factorize(views, rank, key=key))(jnp.stack([key_fit, key_again]))
    fitted, again = jax.tree.map(lambda a: a[0], both), both.dictionary.atoms[1]
    score, codes = logit(head, rivals[0]), concepts.encode(fitted.dictionary, acts)
    values = concepts.importance(score, fitted.dictionary, codes, chunk=chunk).values * valid[:, None]
    order = jnp.argsort(-values.sum(0))
    dictionary = fitted.dictionary._replace(atoms=fitted.dictionary.atoms[order])
    codes, values = codes[..., order], values[:, order]
    faithful = _faithfulness(score, dictionary, codes, values, key_sets, chunk)
    amounts, size = codes.mean((1, 2)), jnp.linalg.norm(values, axis=1, keepdims=True)
    told = _told(head, dictionary, acts, codes, valid, rivals, chunk)
    without = head(jnp.zeros_like(acts[:1]) + dictionary.mean[None, None, None])
    return Study(
        dictionary, again, fitted.codes[:, order], codes, values, _sobol(score, dictionary, codes, affine), amounts,
        told.logits, _slopes(head, dictionary, codes, amounts, valid, rivals, affine, chunk), told.predicted,
        told.predicted_explained, told.explained, without[0, rivals[0]],
        jnp.sqrt(told.residual / jnp.where(told.square > 0, told.square, 1)), told.residual.sum(), told.spread.sum(),
        *faithful,
        concepts.tsne(values / jnp.where(size > 0, size, 1), valid=valid, perplexity=PERPLEXITY, num_steps=plane_steps),
    )  # fmt: skip


class Told(NamedTuple):
    """What the head says of each image, and of what its concepts explain; squared norms of activations.

    Attributes:
        logits: `(n m)` of the rivals.
        predicted, predicted_explained, explained: As in `Study`.
        residual: `(n)` of what is not explained.
        square: `(n)` of the activations.
        spread: `(n)` of their deviations from the mean of all.
    """

    logits: Array
    predicted: Array
    predicted_explained: Array
    explained: Array
    residual: Array
    square: Array
    spread: Array


def _told(
    head: Any, dictionary: Dictionary, acts: Array, codes: Array, valid: Array, rivals: Array, chunk: int
) -> Told:
    """So many images at once: neither what lies inside of the head nor what is explained is held for all of them."""
    centre = acts.sum((0, 1, 2)) / jnp.maximum(valid.sum() * acts.shape[1] * acts.shape[2], 1)

    def of_image(row: tuple[Array, Array, Array]) -> Told:
        a, u, there = row
        decoded = jnp.where(there, concepts.decode(dictionary, u), 0)
        logits, explained = head(a[None])[0], head(decoded[None])[0]
        return Told(
            logits[rivals], logits.argmax(), explained.argmax(), explained[rivals[0]], jnp.square(a - decoded).sum(),
            jnp.square(a).sum(), jnp.where(there, jnp.square(a - centre[None, None]).sum(), 0),
        )  # fmt: skip

    return stream.stack_over(of_image, (acts, codes, valid), chunk)


def _sobol(score: Any, dictionary: Dictionary, codes: Array, affine: bool) -> Float[Array, "n k"]:
    """Exact where the head is affine; sampling costs hundreds of evaluations an image elsewhere."""
    if not affine:
        return jnp.full((len(codes), codes.shape[-1]), jnp.nan)
    return concepts.importance(score, dictionary, codes, method="sobol", key=jax.random.key(0)).values


def _slopes(
    head: Any, dictionary: Dictionary, codes: Array, amounts: Array, valid: Array, rivals: Array, affine: bool,
    chunk: int,
) -> Float[Array, "k m"]:  # fmt: skip
    r"""What a unit of each concept adds to each logit: $\sum_i \phi_{ik} / \sum_i \bar u_{ik}$; 0 for an absent one."""
    method = "auto" if affine else "gradient_input"
    phi = lambda label: concepts.importance(logit(head, label), dictionary, codes, method=method, chunk=chunk).values
    adds = jnp.einsum("mnk,n->km", jax.lax.map(phi, rivals), valid.astype(codes.dtype), precision="highest")
    total = (amounts * valid[:, None]).sum(0)[:, None]
    return jnp.where(total > 0, adds / jnp.where(total > 0, total, 1), 0)


def _faithfulness(
    score: Any, dictionary: Dictionary, codes: Array, values: Array, key: PRNGKeyArray, chunk: int
) -> tuple[Array, Array, Array]:
    """Of each image: areas under the curves of deletion and insertion, and the correlation over random sets."""

    def of_image(row: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        u, phi = row
        down = concepts.c_deletion(score, dictionary, u, phi, chunk=chunk).auc
        up = concepts.c_insertion(score, dictionary, u, phi, chunk=chunk).auc
        return down, up, concepts.c_fidelity(score, dictionary, u, phi, key=key, num_samples=FIDELITY_SETS, chunk=chunk)

    # Each image is dozens of evaluations.
    return stream.stack_over(of_image, (codes, values), max(1, chunk // FIDELITY_SETS))


# --- sub-concepts -----------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """What a concept is made of at an earlier layer, of n images and r sub-concepts.

    Attributes:
        codes: `(n eh ew r)` on the grid of that layer, zero outside of the places of the concept.
        importances: `(n r)` what each adds to the logit of the class, to first order.
        relative_error: Of the activations at those places.
    """

    codes: Float[Array, "n eh ew r"]
    importances: Float[Array, "n r"]
    relative_error: Float[Array, ""]


def parts(
    rest: Any,
    acts: Float[Array, "n eh ew d"],
    inside: Float[Array, "n eh ew"],
    label: Int[Array, ""],
    key: PRNGKeyArray,
    *,
    rank: int,
    factorize: Factorize,
) -> Parts:
    r"""Take a concept apart: factorize an earlier layer at the places where it is strong.

    $A' \approx U' D'$ on these positions; $\phi_j = \sum_p u'_{pj} \langle d'_j, \partial F / \partial a'_p \rangle$

    Cost: 1 B of the rest of the network for each image.

    Args:
        rest: From earlier activations to logits.
        acts: Earlier activations of whole images.
        inside: 1 at the places of the concept, 0 elsewhere.
        label: The class.
        key: Of the factorization.
        rank: How many sub-concepts.
        factorize: As in `study`.
    """
    there = acts * inside[..., None]
    fitted = factorize(there.reshape(-1, acts.shape[-1]), rank, key=key)
    codes = fitted.codes.reshape(*acts.shape[:-1], rank) * inside[..., None]
    slopes = jax.lax.map(jax.grad(logit(rest, label)), acts)
    adds = jnp.einsum("nhwr,rd,nhwd->nr", codes, fitted.dictionary.atoms, slopes, precision="highest")
    order = jnp.argsort(-adds.sum(0))
    return Parts(codes[..., order], adds[:, order], fitted.errors.reshape(-1)[-1])

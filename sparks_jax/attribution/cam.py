"""Class activation maps: which positions of an activation support the score."""

import jax
from jaxtyping import Array, Float

from sparks_jax import images
from sparks_jax.attribution.sobol import Resize
from sparks_jax.images import for_images
from sparks_jax.types import Heatmap, Image, Model, Score


@for_images
def grad_cam(features: Model, head: Score, x: Image, *, resize: Resize = images.bilinear) -> Heatmap:
    r"""Activations weighted by the mean gradient of each channel.

    $\phi = \mathrm{up}\left(\max(0, \sum_k w_k A_k)\right), \qquad
    w_k = \frac{1}{g_h g_w} \sum_{ij} \frac{\partial f}{\partial A_{ijk}}$

    The network is given as its two halves: `network.features` and a score of `network.head`.

    Cost: 1 F of `features`, 1 B of `head`. Unsigned.

    Args:
        features: From a batch of images `(b h w c)` to activations `(b gh gw d)`.
        head: From the activations of one image `(gh gw d)` to a number: `logit(network.head, label)`.
        x: One image.
        resize: From the grid of activations to the map: `images.bilinear` as in the paper.

    Raises:
        ValueError: If the activations have no spatial grid.

    Example:
        >>> features = lambda x: x  # two channels at four positions; the head is their weighted global mean
        >>> head = lambda a: (a.mean((0, 1)) * jnp.array([1.0, -1.0])).sum()
        >>> x = jnp.stack([jnp.eye(2), jnp.zeros((2, 2))], -1)
        >>> grad_cam(features, head, x)
        Array([[0.25, 0.  ],
               [0.  , 0.25]], dtype=float32)

    Reference:
        Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391.
    """
    acts = activations_of(features, x, "grad_cam")
    weights = jax.grad(head)(acts).mean((0, 1))
    return resize(jax.nn.relu(acts @ weights), x.shape[:2]).astype(x.dtype)


def activations_of(features: Model, x: Image, who: str) -> Float[Array, "gh gw d"]:
    """The activations of one image, if they have a spatial grid.

    Args:
        features: From a batch of images to activations.
        x: One image.
        who: The function that speaks.

    Raises:
        ValueError: If the activations are not `(1 gh gw d)`.

    Example:
        >>> activations_of(lambda x: x, jnp.ones((2, 3, 4)), "grad_cam").shape
        (2, 3, 4)

    Reference:
        Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391.
    """
    acts = features(x[None])
    if acts.ndim != 4 or acts.shape[0] != 1:
        raise ValueError(
            f"{who}: features returned shape {acts.shape} for one image, expected (1, gh, gw, d); "
            "pass the half of the network that ends at its last spatial activations"
        )
    return acts[0]

"""What a concept looks like to a network: an image made from noise that has as much of it as possible."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sparks_jax import featviz
from sparks_jax.concepts import Dictionary
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.visualize import MARGIN, visualize
from sparks_jax.scores import as_pytree

STEPS: dict[str, Any] = dict(num_steps=96, num_crops=6)
SMOKE_STEPS: dict[str, Any] = dict(num_steps=2, num_crops=2)


def concept_pictures(
    network: Network, dictionary: Dictionary, count: int, *, key: PRNGKeyArray, chunk: int, smoke: bool = False
) -> list[Float[np.ndarray, "side side 4"]]:
    r"""MACO of the first concepts of a dictionary, faded where the score did not look, in RGBA.

    The objective is the activations along the atom and along nothing else (`featviz.dot_cosine`): a code is zero, and
    has no gradient, in an image that has none of the concept, as noise may.

    Cost: 576 B for each concept.

    Args:
        network: With `features`.
        dictionary: The concepts.
        count: How many of them.
        key: Of the starts and the crops.
        chunk: Crops at once.
        smoke: A quick, rough run.

    Raises:
        ValueError: As `featviz.maco`.
        KeyboardInterrupt: If interrupted.
    """
    features = as_pytree(network.model.features)
    side = round(MARGIN * network.size)
    seen = visualize(
        [featviz.dot_cosine(features, atom) for atom in dictionary.atoms[:count]],
        key=key, spectrum=featviz.Spectrum.natural(side), values_range=(0, 1), input_size=network.size, chunk=chunk,
        **(SMOKE_STEPS if smoke else STEPS),
    )  # fmt: skip
    if seen.interrupted:
        raise KeyboardInterrupt
    return [_faded(one) for one in seen.visualizations]


def _faded(one: featviz.Visualization) -> np.ndarray:
    alpha = np.asarray(jax.jit(featviz.opacity)(one.transparency))
    return np.concatenate([np.clip(one.image, 0, 1), alpha[..., None]], -1)

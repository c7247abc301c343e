"""Where each concept is by hiding parts of an image: methods that ask the network, and look at nothing inside of it."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
from jaxtyping import Array, Float

from sparks_jax import attribution, concepts, sensitivity
from sparks_jax.concepts import Dictionary
from sparks_jax.lens.programs import coarse
from sparks_jax.types import Heatmap

CELLS = 7  # along each side of what is hidden
DESIGNS, MASKS = 16, 1000  # of Sobol' (the paper: 16 to 64), of RISE (the paper: 4000 to 8000)


def method(name: str, side: int, seed: int, chunk: int) -> Callable[..., Heatmap]:
    """A method with the settings that Lens gives it, `(f, x) -> map`.

    Args:
        name: One of `settings.BLACK_BOXES`.
        side: Of the network's images.
        seed: Of its masks, the same for all images.
        chunk: Images at once.

    Example:
        >>> method("rise", 224, 0, 4).keywords["num_masks"]
        1000
    """
    patch, key = max(1, round(side / CELLS)), jax.random.key(seed)
    made = {
        "sobol": partial(attribution.sobol, key=key, grid=CELLS, num_designs=DESIGNS),
        "rise": partial(attribution.rise, key=key, grid=CELLS, num_masks=MASKS),
        "occlusion": partial(attribution.occlusion, patch=patch, stride=max(1, patch // 2)),
    }
    return partial(made[name], chunk=chunk)


def evaluations(name: str | None, side: int) -> int:
    """How many images the network is shown for the maps of all concepts of one image.

    Args:
        name: As in `method`; None for none.
        side: Of the network's images.

    Example:
        >>> evaluations("sobol", 224), evaluations("occlusion", 224), evaluations(None, 224)
        (816, 170, 0)
    """
    return 0 if name is None else _count(name, side)


@cache
def _count(name: str, side: int) -> int:
    image = jax.ShapeDtypeStruct((side, side, 3), "float32")
    return sensitivity.count_evaluations(method(name, side, 0, 1), image)


def maps(name: str, seed: int, chunk: int, shared: Any, rows: tuple[Any, Dictionary]) -> Float[Array, "b k h w"]:
    """Maps of each concept in each image by a black-box method, as fine as `programs.gradient_maps`, at least 0.

    Concepts share what the network says of the images that it is shown. Of the maps of RISE only differences mean
    something: they begin at their least value.

    Args:
        name: As in `method`.
        seed: As in `method`.
        chunk: As in `method`.
        shared: The features.
        rows: Images, and the dictionary of the class of each.
    """

    def one(x: Any, dictionary: Dictionary) -> Any:
        how = method(name, x.shape[0], seed, chunk)
        found = concepts.concept_maps(shared, dictionary, x, how=how, at_once=len(dictionary.atoms))
        least = found.min((1, 2), keepdims=True) if name == "rise" else 0.0
        return coarse(jax.nn.relu(found - least))

    return jax.lax.map(lambda row: one(*row), rows)

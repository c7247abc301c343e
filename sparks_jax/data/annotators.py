r"""People who point at an object, made from its mask: a stand-in for collected maps where the truth is known.

Each person clicks on the object, not very precisely, now and then elsewhere, and every click shows a disc of the image,
as in the ClickMe game. Some click where others do not: they agree to an extent that can be computed as it is for the
collected maps (`alignment.split_half`), and that no network need exceed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

# Lengths, in sides of the image.
RADIUS = 0.08  # of the disc that a click shows
JITTER = 0.04  # standard deviation of a click around where it was meant


def annotations(
    mask: Shaped[Array, "..."],
    *,
    key: PRNGKeyArray,
    num_people: int = 6,
    num_clicks: int = 8,
    stray: float | Float[Array, ""] = 0.2,
    radius: float = RADIUS,
    jitter: float = JITTER,
) -> Float[Array, "a h w"]:
    r"""Where each of some people clicked, from 0 to the number of their clicks, of which a pixel saw so many.

    Mean over people: the map of people for this image.

    Args:
        mask: 1 (or True) on the object; where it is empty, all clicks are anywhere.
        key: Draws the clicks.
        num_people: How many people.
        num_clicks: Of each person.
        stray: Share of the clicks that are anywhere in the image.
        radius: Of the disc that a click shows, in sides of the image; its rim is one pixel wide.
        jitter: Standard deviation of a click around the pixel that was meant, in sides of the image.

    Raises:
        ValueError: For a mask that is not `(h, w)`, and for numbers out of range.

    Example:
        >>> mask = jnp.zeros((16, 16)).at[2:5, 2:5].set(1)
        >>> people = annotations(mask, key=jax.random.key(0), num_people=3, stray=0.0, jitter=0.0)
        >>> people.shape, bool(people[:, 3, 3].min() > people[:, 12, 12].max() == 0)
        ((3, 16, 16), True)

    Reference:
        Linsley et al. 2019, Learning what and where to attend, arXiv:1805.08819 (the game that is imitated).
    """
    if mask.ndim != 2:
        raise ValueError(f"annotations: mask has shape {mask.shape}, expected (h, w); map images with jax.vmap")
    for name, value in (("num_people", num_people), ("num_clicks", num_clicks)):
        if value < 1:
            raise ValueError(f"annotations: {name} is {value}, expected at least 1")
    size, count = jnp.array(mask.shape), (num_people, num_clicks)
    side = max(mask.shape)
    key_meant, key_stray, key_jitter = jax.random.split(key, 3)
    # The mean of the object's share and of strays: a click is drawn on the object or anywhere, in one draw.
    on = (mask != 0).ravel()
    chance = jnp.where(on.any(), stray / mask.size + (1 - stray) * on / jnp.maximum(on.sum(), 1), 1 / mask.size)
    meant = jax.random.categorical(key_meant, jnp.log(chance), shape=count)
    clicks = jnp.stack(jnp.divmod(meant, mask.shape[1]), -1) + jax.random.uniform(key_stray, (*count, 2))
    clicks = clicks + side * jitter * jax.random.normal(key_jitter, (*count, 2))
    clicks = jnp.clip(clicks, 0, size[None, None])
    rows, columns = (jnp.arange(n) + 0.5 for n in mask.shape)

    def one(clicks: Float[Array, "k 2"]) -> Float[Array, "h w"]:
        down, right = rows[None] - clicks[:, :1], columns[None] - clicks[:, 1:]
        distance = jnp.hypot(down[:, :, None], right[:, None])
        return jnp.clip(side * radius + 0.5 - distance, 0, 1).sum(0)

    return jax.vmap(one)(clicks)

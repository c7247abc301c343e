"""A score under a grid of masks: Sobol' and HSIC maps are the indices of that function, on the image."""

import jax
import jax.numpy as jnp
import numpy as np

from sparks_jax import attribution, images, sensitivity
from tests.tiny import linear_score

KEY = jax.random.key(0)


def test_the_cells_of_a_mask(image):
    """Cell by cell, row by row, whatever the size of the image; the map goes back the same way."""
    w = jax.random.normal(jax.random.key(2), image.shape)
    g = attribution.masked_score(linear_score(w), image, grid=2)
    expected = (w * image).sum(-1).reshape(2, 4, 2, 4).sum((1, 3)).ravel()
    np.testing.assert_allclose(jax.vmap(g)(jnp.eye(4)), expected, atol=1e-4)
    cells = jnp.arange(9.0)
    back = attribution.cells_to_map(cells, jnp.ones((6, 3, 1)), images.nearest)
    np.testing.assert_array_equal(back, np.kron(np.arange(9.0).reshape(3, 3), np.ones((2, 1))))


def test_indices_of_a_network_and_maps_of_it_agree(network, image):
    """One run for all: totals, first order and the standard error of the totals, which is the sensitivity's."""
    options = dict(num_designs=8, chunk=64)
    more = dict(key=KEY, grid=2, resize=images.nearest, **options)

    @jax.jit
    def run(network, x):
        f = lambda x: network(x[None])[0, 1]
        values = sensitivity.pick_freeze(attribution.masked_score(f, x, grid=2), 4, key=KEY, **options)
        methods = (attribution.sobol, attribution.sobol_first, attribution.sobol_signed)
        maps = [method(f, x, **more)[::4, ::4].ravel() for method in methods]
        return sensitivity.saltelli(*values)[0], sensitivity.jansen(*values)[1], maps

    first, total, maps = run(network, image)
    for got, expected in zip(maps, (total, first, total * jnp.sign(maps[2])), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_signs_survive_a_crowd():
    """A weak opponent among strong friends: 1/49 of the variance. Over all runs its mask correlates with the score by
    -0.14, and 16 (4 + 2) runs tell that from zero by little more than one standard error; row by row nothing but its
    own cell moves, and the sign is sure."""
    w, x = jnp.array([[4.0, 4.0], [4.0, -1.0]])[..., None], jnp.ones((2, 2, 1))
    options = dict(grid=2, num_designs=16, resize=images.nearest)
    run = jax.jit(jax.vmap(lambda k: attribution.sobol_signed(linear_score(w), x, key=k, **options)))
    signs = jnp.sign(run(jax.random.split(KEY, 32)))
    np.testing.assert_array_equal(signs, jnp.broadcast_to(jnp.array([[1.0, 1], [1, -1]]), (32, 2, 2)))

"""t-SNE: neighbourhoods have their perplexity, groups stay groups, padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax.concepts.tsne import neighbourhoods, tsne


@pytest.mark.parametrize("perplexity", [2.0, 5.0, 9.0])
def test_every_neighbourhood_has_the_perplexity(key, perplexity):
    rows = 100 * jax.random.normal(key, (40, 3)) ** 3  # of very unequal densities
    p = np.asarray(neighbourhoods(rows, perplexity=perplexity), np.float64)
    entropy = -np.sum(p * np.log2(np.where(p > 0, p, 1)), 1)
    # float32 distances: an error of 2^-23 of the squared lengths, up to 1e3 times the gaps that count.
    np.testing.assert_allclose(2**entropy, perplexity, rtol=1e-3)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert (np.diag(p) == 0).all()


def test_groups_stay_groups(key):
    """Three groups ten deviations apart: every nearest neighbour in the plane is of the own group."""
    group = np.repeat(np.arange(3), 20)
    rows = 10 * jnp.eye(5)[group] + jax.random.normal(key, (60, 5))
    y = np.asarray(jax.jit(lambda rows: tsne(rows, perplexity=10.0, num_steps=120))(rows))
    distances = np.linalg.norm(y[:, None] - y[None], axis=2) + 1e9 * np.eye(60)
    assert (group[distances.argmin(1)] == group).all()
    assert np.abs(y).max() == pytest.approx(1, abs=1e-6)


def test_padding_changes_nothing(key):
    """A few steps, for a descent on the way to chaos doubles rounding errors again and again."""
    rows = jax.random.normal(key, (12, 3))
    padded = jnp.concatenate([rows, jnp.full((5, 3), 7.0)])
    run = jax.jit(lambda rows, valid: tsne(rows, valid=valid, perplexity=3.0, num_steps=8))
    got = run(padded, jnp.arange(17) < 12)
    np.testing.assert_allclose(got[:12], run(rows, jnp.ones(12, bool)), atol=1e-3)
    assert (np.asarray(got[12:]) == 0).all()


@pytest.mark.parametrize("rows", [jnp.ones((1, 2)), jnp.eye(3), jnp.ones((6, 2))], ids=["one", "three", "equal"])
def test_a_few_rows_and_equal_ones_have_places(rows):
    assert np.isfinite(np.asarray(jax.jit(lambda rows: tsne(rows, num_steps=4))(rows))).all()

"""The study of a class: what it says of images is what the head says of them, however many it is told at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from sparks_jax.concepts import decode, nmf
from sparks_jax.lens.study import study

SIDE, CHANNELS, HIDDEN, CLASSES, RANK, CHUNK = 2, 3, 4096, 4, 2, 3
RIVALS = jnp.array([2, 0])


def perceptron(weights, acts):
    return jax.nn.relu(acts @ weights[0]).mean((1, 2)) @ weights[1] / HIDDEN**0.5


@pytest.fixture(scope="module")
def head():
    keys = jax.random.split(jax.random.key(0))
    weights = jax.random.normal(keys[0], (CHANNELS, HIDDEN)), jax.random.normal(keys[1], (HIDDEN, CLASSES))
    return Partial(perceptron, weights)


def rows(n, there):
    """Views, activations and which of them are there; the others are zero."""
    valid = jnp.arange(n) < there
    acts = jax.random.uniform(jax.random.key(n), (n, SIDE, SIDE, CHANNELS)) * valid[:, None, None, None]
    return acts.reshape(-1, CHANNELS), acts, valid


def compiled(head, n):
    run = partial(study, rank=RANK, factorize=partial(nmf, num_steps=2), affine=False, plane_steps=2, chunk=CHUNK)
    return jax.jit(run).lower(head, *rows(n, n), RIVALS, jax.random.key(0)).compile()


@pytest.fixture(scope="module")
def programs(head):
    return {n: compiled(head, n) for n in (16, 64)}


def test_what_it_says_of_images_is_what_the_head_says(head, programs):
    views, acts, valid = rows(16, 13)
    found = programs[16](head, views, acts, valid, RIVALS, jax.random.key(0))
    decoded = jnp.where(valid[:, None, None, None], decode(found.dictionary, found.image_codes), 0)
    logits, explained = head(acts), head(decoded)
    # Sums of 4096 float32 numbers below 1, in another order.
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(found.logits, logits[:, RIVALS])
    close(found.explained, explained[:, RIVALS[0]])
    np.testing.assert_array_equal(found.predicted, logits.argmax(1))
    np.testing.assert_array_equal(found.predicted_explained, explained.argmax(1))
    norms = lambda a: np.linalg.norm(np.asarray(a).reshape(16, -1), axis=1)
    close(found.relative_error[:13], norms(acts - decoded)[:13] / norms(acts)[:13])
    close(found.residual_square, np.square(norms(acts - decoded)).sum())
    close(found.total_square, np.square(acts[:13] - acts[:13].mean((0, 1, 2))[None, None, None]).sum())


def test_memory_does_not_grow_with_what_the_head_holds_of_each_image(programs):
    """Of 64 images rather than 16, by less than a quarter of what one layer of the head is for the 48 others."""
    small, large = (programs[n].memory_analysis().temp_size_in_bytes for n in (16, 64))
    assert large - small < 48 * SIDE**2 * HIDDEN * 4 / 4

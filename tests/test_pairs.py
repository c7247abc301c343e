"""The world of pairs keeps its word: which shapes touch is the class, and nothing else tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label
from scipy.stats import chisquare

from sparks_jax.data.pairs import CLASSES, SHAPES, pair, pairs

pytestmark = pytest.mark.usefixtures("optimized_module")
NUM = 64
KEYS = jax.random.split(jax.random.key(5), NUM)


@pytest.fixture(scope="module")
def by_class():
    """The same images with each class in turn."""
    draw = jax.jit(jax.vmap(pair))
    return [jax.tree.map(np.asarray, draw(KEYS, jnp.full(NUM, i))) for i in range(len(CLASSES))]


def test_an_image_is_a_function_of_its_key_and_its_class(by_class):
    """Two classes differ in the shapes alone, up to the rounding of a program."""
    for one in by_class[1:]:
        shapes = [w.halves.any(1) for w in (by_class[0], one)]
        changed = (np.abs(by_class[0].images - one.images) > 1e-5).any(-1)
        assert not (changed & ~(shapes[0] | shapes[1])).any()
        assert changed.any((1, 2)).all()


def test_halves_are_together_and_the_others_apart(by_class):
    """Nothing overlaps; only halves may be neighbours, in a disc of two radii: of 0.24 of 64 at most."""
    for world in by_class:
        masks = np.concatenate([world.halves, world.alone], axis=1)
        assert (masks.sum(axis=1) <= 1).all()
        assert masks.any((2, 3)).all()
        grown = np.stack([[binary_dilation(m) for m in image] for image in world.alone])
        for k in range(3):
            others = np.delete(masks, 2 + k, axis=1).any(1)
            assert not (grown[:, k] & others).any()
        for pixels in world.halves.any(1):
            assert np.ptp(np.argwhere(pixels), axis=0).max() <= 2 * 0.24 * 64


def test_the_class_is_what_touches_and_what_is_alone_does_not_know_it(by_class):
    """A ring has a hole, the other shapes have none."""
    hole = lambda mask: label(~mask)[1] == 2
    for of_class, world in zip(CLASSES, by_class, strict=True):
        assert all(hole(m) == of_class.startswith("ring") for m in world.halves[:, 0])
        assert not any(hole(m) for m in world.halves[:, 1])
        np.testing.assert_array_equal(world.alone, by_class[0].alone)
        np.testing.assert_array_equal(world.kinds, by_class[0].kinds)
        for masks, kinds in zip(world.alone, world.kinds, strict=True):
            assert [hole(m) for m in masks] == [SHAPES[kind] == "ring" for kind in kinds]


def test_a_small_set_is_the_beginning_of_a_large_one_and_classes_are_as_frequent():
    many = pairs(512, key=jax.random.key(0), size=16)
    few, later = pairs(3, key=jax.random.key(0), size=16), pairs(3, key=jax.random.key(0), size=16, start=400)
    for part, begin in ((few, 0), (later, 400)):
        expected = jax.tree.map(lambda a, begin=begin: a[begin : begin + 3], many)
        np.testing.assert_array_equal(part.labels, expected.labels)
        np.testing.assert_allclose(part.images, expected.images, atol=1e-4)
    assert chisquare(np.bincount(many.labels, minlength=len(CLASSES))).pvalue > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pairs(0, key=KEYS[0]), "pairs: num is 0, expected at least 1"),
        (lambda: pairs(1, key=KEYS[0], size=8), "pairs: size is 8, expected at least 16"),
        (lambda: pair(KEYS[0], 4), "pair: label is 4, expected 0 to 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

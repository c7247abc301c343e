"""CRAFT on worlds that are known: crops in their places, planted concepts, their parts at an earlier layer, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import concepts
from sparks_jax.concepts import craft, crop_boxes, refine

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("size", "crop", "counts"),
    [
        ((224, 224), 64, (4, 4)),
        ((224, 224), 80, (3, 3)),
        ((64, 96), 64, (1, 2)),
        ((25, 10), 10, (3, 1)),
        ((8, 8), 8, (1, 1)),
    ],
)
def test_crops_cover_the_image(size, crop, counts):
    """As many as in the paper, and no pixel without one: at its stride 7 of 224 pixels are never seen."""
    boxes = crop_boxes(size, crop)
    assert len(boxes) == counts[0] * counts[1]
    seen = np.zeros(size, int)
    for top, left, height, width in boxes.astype(int):
        assert (height, width) == (crop, crop)
        assert top + height <= size[0]
        assert left + width <= size[1]
        seen[top : top + height, left : left + width] += 1
    assert seen.min() >= 1
    assert (seen.sum() == crop**2 * len(boxes)).all()


def test_a_crop_is_resized_without_aliasing():
    """Linear ramps stay ramps under cubic convolution, inside; fine stripes average out where an image shrinks."""
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None, None], (16, 16, 1))
    zoomed = concepts.zoom(ramp, jnp.array([4.0, 4.0, 8.0, 8.0]), (16, 16))[..., 0]
    expected = 4 + (np.arange(16) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(zoomed, np.broadcast_to(expected[:, None], (16, 16)), atol=1e-5)
    stripes = jnp.broadcast_to((jnp.arange(32) % 2)[:, None, None].astype(float), (32, 32, 1))
    small = concepts.zoom(stripes, jnp.array([0.0, 0.0, 32.0, 32.0]), (4, 4))
    np.testing.assert_allclose(small, 0.5, atol=0.02)


# --- a world of four parts: red and green in one half of a two-part glyph, blue and yellow in another ---

PARTS = jnp.eye(4)
PAIRS = jnp.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).T / 2**0.5


def world(num, size=16, cell=4, seed=0):
    """Images of cells of one of four colours or none: of the first two in odd images, of the last two in the others."""
    rng = np.random.default_rng(seed)
    cells = np.zeros((num, size // cell, size // cell, 4), np.float32)
    for i in range(num):
        colours = [0, 1] if i % 2 else [2, 3]
        for row, column in rng.permutation([(r, c) for r in range(size // cell) for c in range(size // cell)])[:8]:
            cells[i, row, column, rng.choice(colours)] = rng.uniform(0.5, 1)
    return jnp.asarray(cells.repeat(cell, 1).repeat(cell, 2)), cells


IMAGES, CELLS = world(12)


def early(x):
    """Means of cells: the four parts."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4))


late_of = lambda acts: acts @ PAIRS  # two parts become one channel
late = lambda x: late_of(early(x))
late_head = lambda acts: acts.mean((0, 1)) @ jnp.array([3.0, -1.0])
early_head = lambda acts: late_head(late_of(acts[None])[0])


WEIGHTS = jnp.array([[3.0, -1.0], [1.0, 2.0]])


@pytest.fixture(scope="module")
def classes():
    """Two classes, of the same images in another order and of different heads, in one program."""

    def of_class(x, w):
        head = lambda acts: acts.mean((0, 1)) @ w
        return craft(late, head, x, key=KEY, rank=2, view=concepts.positions())

    return jax.jit(jax.vmap(of_class))(jnp.stack([IMAGES, IMAGES[::-1]]), WEIGHTS)


@pytest.fixture
def found(classes):
    return jax.tree.map(lambda a: a[0], classes)


def test_planted_concepts_are_found(found):
    """Two channels that never meet are two concepts, as important as their weights; nothing is left to explain."""
    order = np.argmax(found.dictionary.atoms, axis=0)  # the concept of each channel
    np.testing.assert_allclose(found.dictionary.atoms[order], np.eye(2), atol=1e-5)
    assert found.codes.shape == (12 * 16, 2)
    assert found.image_codes.shape == (12, 4, 4, 2)
    amounts = np.asarray(late(IMAGES)).mean((1, 2))
    np.testing.assert_allclose(found.importance.values[:, order], amounts * [[3, -1]], rtol=1e-4, atol=1e-6)
    assert found.importance.exact
    np.testing.assert_allclose(found.explained, found.score, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.score, jax.vmap(late_head)(late(IMAGES)), rtol=1e-5)
    assert not found.dead.any()
    assert found.strategies.prevalence.sum() == 1
    # Each view lies where its code says: a cell of the image has the colours of its concept.
    v = int(found.codes[:, order[0]].argmax())
    top, left, height, width = np.asarray(found.box[v], int)
    assert (height, width) == (4, 4)
    seen = IMAGES[found.image[v], top : top + 4, left : left + 4]
    np.testing.assert_allclose(late(seen[None])[0, 0, 0, 0], found.codes[v, order[0]], rtol=1e-4)


def test_recursion_takes_a_concept_apart(found):
    """One late concept is made of two colours; at the earlier layer they are two, and count as the concept does."""
    concept = int(np.argmax(found.dictionary.atoms[:, 0]))
    run = lambda c: refine(c, concept, early, early_head, IMAGES, key=KEY, rank=2, top=0.2)
    parts = jax.jit(run)(found)
    atoms = np.asarray(parts.dictionary.atoms)
    order = atoms.argmax(0)[:2]
    assert sorted(order.tolist()) == [0, 1]
    np.testing.assert_allclose(atoms[order], np.eye(2, 4), atol=0.02)
    amounts = np.asarray(early(IMAGES)).mean((1, 2))[:, :2] * 3 / 2**0.5
    odd = slice(1, None, 2)
    np.testing.assert_allclose(parts.importance.values[odd, order], amounts[odd], rtol=0.05, atol=0.01)
    assert set(np.asarray(parts.image).tolist()) <= set(range(1, 12, 2))  # where the concept is


def test_classes_are_mapped(classes):
    """Each class has its own concepts and importance, as of its own images and head."""
    amounts = np.asarray(late(IMAGES)).mean((0, 1, 2))
    expected = (amounts[None] * np.asarray(WEIGHTS))[[[0], [1]], np.argmax(classes.dictionary.atoms, axis=2)]
    np.testing.assert_allclose(classes.importance.mean, expected, rtol=1e-4, atol=1e-6)
    scores = np.asarray(late(IMAGES[::-1])).mean((1, 2)) @ np.asarray(WEIGHTS[1])
    np.testing.assert_allclose(classes.score[1], scores, rtol=1e-5)


def test_views():
    """Crops see a part of an image, resized and averaged; tokens skip the first and know their patch."""
    crops = concepts.crops(8)(late, IMAGES[:2], chunk=3)
    assert crops.acts.shape == (2 * 4, 2)
    np.testing.assert_array_equal(crops.image, np.repeat([0, 1], 4))
    # A crop of 8 pixels holds four whole cells, and its mean is theirs, but for what cubic convolution sees over the
    # border: at most 0.07 of a pixel in half a pixel of 8.
    corner = CELLS[0, :2, :2].mean((0, 1)) @ np.asarray(PAIRS)
    np.testing.assert_allclose(crops.acts[0], corner, atol=0.05)
    tokens = lambda x: jnp.concatenate([jnp.ones((len(x), 1, 2)), late(x).reshape(len(x), -1, 2)], 1)
    views = concepts.tokens()(tokens, IMAGES[:2])
    expected = concepts.positions()(late, IMAGES[:2])
    np.testing.assert_allclose(views.acts, expected.acts)
    np.testing.assert_array_equal(views.box, expected.box)
    run = lambda x: craft(tokens, lambda a: a[1:].sum(), x, key=KEY, rank=2, view=concepts.tokens())
    found = jax.eval_shape(run, IMAGES[:2])
    assert found.image_codes.shape == (2, 17, 2)


def test_errors():
    run = partial(craft, late, late_head, key=KEY)
    with pytest.raises(ValueError, match="craft: 10 concepts from 4 views of 1 images; give more images"):
        run(IMAGES[:1], crop=8)
    with pytest.raises(ValueError, match="negative down to .* use semi_nmf"):
        craft(lambda x: late(x) - 1, late_head, IMAGES[:2], key=KEY, rank=2, view=concepts.positions())
    with pytest.raises(ValueError, match="all zero: there is nothing to explain; take another layer"):
        craft(lambda x: 0 * late(x), late_head, IMAGES[:2], key=KEY, rank=2, view=concepts.positions())
    with pytest.raises(ValueError, match=r"head returned shape \(2,\) for activations of shape \(4, 4, 2\) .* a score"):
        craft(late, lambda acts: acts.mean((0, 1)), IMAGES, key=KEY, rank=2, crop=8)
    with pytest.raises(ValueError, match="images have NaN or infinite pixels"):
        run(IMAGES.at[0, 0, 0, 0].set(jnp.nan), rank=2)
    with pytest.raises(ValueError, match="crops of 64 pixels .* of images of 16 × 16: expected a side of at most 16"):
        run(IMAGES, rank=2)
    with pytest.raises(ValueError, match=r"positions: features returned shape \(1, 2\) for one image, .* tokens\(\)"):
        craft(lambda x: late(x).mean((1, 2)), lambda a: a.sum(), IMAGES, key=KEY, rank=2, view=concepts.positions())


def test_errors_of_recursion(found):
    run = partial(refine, found, features=early, head=early_head, images=IMAGES, key=KEY)
    with pytest.raises(ValueError, match="k is 2, outside of the 2 concepts 0 … 1"):
        run(2)
    with pytest.raises(ValueError, match="refine: of concept 0: 5 concepts from 2 views"):
        run(0, top=0.01)

"""The glyph world keeps its word: what decides the class, where it is, and that nothing else tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from sparks_jax.data import shapes
from sparks_jax.data.drawing import RIM
from sparks_jax.data.glyphs import CLASSES, DISTRACTORS, TAG, Glyphs, glyph, glyphs

pytestmark = pytest.mark.usefixtures("optimized_module")
NUM = 128
KEYS = jax.random.split(jax.random.key(5), NUM)
draw = jax.jit(jax.vmap(glyph))  # with NUM keys, labels and cues: the one program behind most tests


def drawn(label, cue=-1, keys=KEYS) -> Glyphs:
    return jax.tree.map(np.asarray, draw(keys, jnp.full(NUM, label), jnp.full(NUM, cue)))


@pytest.fixture(scope="module")
def by_class():
    """The same NUM images with each class in turn, without a tag."""
    return [drawn(label) for label in range(len(CLASSES))]


@pytest.fixture(scope="module")
def world():
    """Images of the world: half with a tag, half of the tags tied to the class."""
    parts = [glyphs(256, key=jax.random.key(seed), shortcut=0.5, agreement=0.5) for seed in range(4)]
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)


# --- an image is a function of its key, its class and its tag ---


def test_an_image_does_not_see_its_neighbours(by_class):
    backwards = drawn(0, keys=KEYS[::-1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::-1], b), backwards, by_class[0])


def test_a_small_set_is_the_beginning_of_a_large_one():
    """Up to rounding, which differs between programs: a pixel in the rim is off by that of a distance, some 1e-5."""
    options = dict(key=jax.random.key(0), shortcut=0.5, agreement=0.5, size=32)
    many, few, later = glyphs(96, **options), glyphs(3, **options), glyphs(3, start=80, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:3], rtol=1e-5, atol=1e-4), few, many)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[80:83], rtol=1e-5, atol=1e-4), later, many)


def test_other_keys_are_other_images(world):
    assert len(np.unique(world.images[:, :, :, 0].reshape(len(world.images), -1), axis=0)) == len(world.images)


def test_pixels_are_colours(world):
    assert world.images.dtype == np.float32
    assert world.images.min() >= 0
    assert world.images.max() <= 1
    assert (world.images.std((1, 2)) > 0.01).all()  # no image is one colour


# --- masks ---


def changed(a: Glyphs, b: Glyphs) -> np.ndarray:
    return (a.images != b.images).any(-1)


def test_masks_cover_exactly_what_the_glyph_changed(by_class):
    """Outside of both masks nothing changes with the class; on one of them only, everything does."""
    for a, b in zip(by_class, by_class[1:], strict=False):
        moved = changed(a, b)
        assert not moved[~(a.masks | b.masks)].any()
        assert moved[a.masks ^ b.masks].all()


def test_tags_cover_exactly_what_the_tag_changed(by_class):
    tagged, other = drawn(0, cue=3), drawn(0, cue=7)
    assert not by_class[0].tags.any()
    np.testing.assert_array_equal(changed(tagged, by_class[0]), tagged.tags)
    np.testing.assert_array_equal(changed(tagged, other), tagged.tags)
    np.testing.assert_array_equal(tagged.tags, other.tags)
    # A square with round corners and a rim of one pixel at most.
    areas = tagged.tags.sum((1, 2))
    assert (areas > 0.8 * (64 * TAG) ** 2).all()
    assert (areas <= (64 * TAG + 2) ** 2).all()


def test_no_two_things_touch(world):
    covered = world.masks.astype(int) + world.tags + world.distractors.sum(1)
    assert covered.max() == 1
    assert (world.distractors.sum((2, 3)) > 0).all()


# --- the label is the shape ---


@jax.jit
@jax.vmap
def distance(edges, centre, radius, angle):
    """Of the centre of each pixel from the outline of a shape at this place, in pixels."""
    y, x = jnp.indices((64, 64)) + 0.5
    x, y = (x - centre[1]) / radius, (centre[0] - y) / radius
    right, up = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
    return radius * shapes.signed_distance(edges, right, up)


def distances(world):
    return np.asarray(distance(shapes.edges()[world.labels], world.centres, world.radii, world.angles))


def test_the_mask_is_the_shape_of_the_label(by_class):
    """At its place, of its size, turned by its angle, and half a pixel of rim; a rounding at its end aside."""
    for world in by_class:
        away = distances(world)
        known = np.abs(away - 0.5) > 1e-4
        np.testing.assert_array_equal(world.masks[known], away[known] < 0.5)


def test_missing_edges_are_seen_nowhere():
    """Shapes are in the unit disc: of a point 20 radii away in both directions, all are 27 to 29.5 away."""
    away = jax.vmap(lambda edges: shapes.signed_distance(edges, jnp.float32(20), jnp.float32(20)))
    distances = away(jnp.asarray(shapes.edges()))
    assert distances.min() > 20 * np.sqrt(2) - 1.01
    assert distances.max() < 20 * np.sqrt(2) + 1.01


def test_shapes_fill_the_unit_circle_and_differ():
    table = shapes.edges()
    sizes = [np.hypot(*np.moveaxis(e[np.abs(e).max((1, 2)) < shapes.FAR], -1, 0)).max() for e in table]
    np.testing.assert_allclose(sizes, 1, atol=1e-6)
    assert (len(CLASSES), len(DISTRACTORS)) == (10, 5)
    assert not set(CLASSES) & set(DISTRACTORS)


@pytest.mark.parametrize(
    ("name", "point", "distance"),
    [
        ("ring", (0.0, 0.0), 0.5),  # a hole is outside
        ("ring", (0.75, 0.0), -0.25),
        ("cross", (0.0, 0.0), -0.3 * 2**0.5),  # the inner corners are nearest
        ("disc", (3.0, 0.0), 2.0),
        ("square", (0.0, 1.0), 1 - 0.5**0.5),
        ("hourglass", (0.0, 0.0), None),
        ("bar", (0.9, 0.0), None),
    ],
)
def test_signed_distances(name, point, distance):
    """Circles are polygons of 24 and 16 edges, whose sides come nearer than their corners by 1 - cos(π/16) = 0.02."""
    edges = jnp.asarray(shapes.edges()[shapes.NAMES.index(name)])
    got = shapes.signed_distance(edges, *jnp.asarray(point)[:, None]).item()
    if distance is None:
        assert (got < 0) == (name == "hourglass")
    else:
        assert abs(got - distance) < 0.02


# --- nothing else tells the class ---


def test_nothing_but_the_shape_depends_on_the_class(by_class):
    """With its key given, everything else is the same for every class: places, sizes, distractors, and the colour.

    The class is drawn by a key of its own, so what does not depend on it given the image's key is independent of it;
    the background is: `test_masks_cover_exactly_what_the_glyph_changed`.
    """
    compared, depth = 0, distances(by_class[0])
    for other in by_class[1:]:
        for field in ("distractors", "kinds", "tags", "cues", "centres", "radii"):
            np.testing.assert_array_equal(getattr(other, field), getattr(by_class[0], field))
        # Further inside than the rim and its smooth edges a glyph has its own colour.
        both = (depth < -1 - 64 * RIM) & (distances(other) < -1 - 64 * RIM)
        np.testing.assert_array_equal(by_class[0].images[both], other.images[both])
        compared += both.any((1, 2)).sum()
    assert compared > NUM


def within(count, num, share):
    """Whether a count is within five standard deviations of its binomial mean."""
    return abs(count - num * share) <= 5 * (num * share * (1 - share)) ** 0.5


def test_classes_and_distractors_occur_equally_often(world):
    for drawn, kinds in ((world.labels, CLASSES), (world.kinds.ravel(), DISTRACTORS)):
        assert chisquare(np.bincount(drawn, minlength=len(kinds))).pvalue > 1e-6


def test_few_classes_and_no_distractors():
    world = glyphs(64, key=jax.random.key(0), size=16, num_classes=3, num_distractors=0)
    assert set(world.labels.tolist()) == {0, 1, 2}
    assert world.distractors.shape == (64, 0, 16, 16)
    assert world.masks.any((1, 2)).all()


# --- the shortcut ---


def test_tags_occur_and_agree_as_often_as_asked(world):
    tagged = world.cues >= 0
    np.testing.assert_array_equal(world.tags.any((1, 2)), tagged)
    assert within(tagged.sum(), len(tagged), 0.5)
    # Half are tied to the class; of the others, drawn at random, a tenth has its colour by chance.
    agree = (world.cues == world.labels)[tagged]
    assert within(agree.sum(), len(agree), 0.5 + 0.5 / 10)


def test_a_shortcut_that_always_holds_and_one_that_is_broken():
    holds, broken = (glyphs(256, key=jax.random.key(1), shortcut=1.0, agreement=a) for a in (1.0, 0.0))
    np.testing.assert_array_equal(holds.cues, holds.labels)
    assert (broken.cues >= 0).all()
    assert within((broken.cues == broken.labels).sum(), 256, 1 / 10)
    # Breaking it changes nothing but the colour of the tag.
    np.testing.assert_array_equal(holds.labels, broken.labels)
    np.testing.assert_array_equal(holds.images[~holds.tags], broken.images[~broken.tags])


def test_each_class_has_a_tag_colour_of_its_own():
    tagged = [drawn(0, cue=cue) for cue in range(len(CLASSES))]
    colours = np.stack([np.median(world.images[0][world.tags[0]], 0) for world in tagged])
    apart = np.abs(colours[:, None] - colours[None]).max(-1) + np.eye(len(CLASSES))
    assert apart.min() > 0.05


@pytest.mark.parametrize(
    ("num", "options", "message"),
    [
        (0, {}, "num is 0, expected at least 1"),
        (1, dict(size=8), "size is 8, expected at least 16"),
        (1, dict(num_classes=11), "num_classes is 11, expected 1 to 10"),
        (1, dict(shortcut=1.5), r"shortcut is 1.5, expected a share in \[0, 1\]"),
        (1, dict(agreement=float("nan")), "agreement is nan, expected a share"),
    ],
)
def test_wrong_arguments(num, options, message):
    with pytest.raises(ValueError, match=message):
        glyphs(num, key=jax.random.key(0), **options)


@pytest.mark.parametrize("options", [dict(label=10), dict(label=-1), dict(label=0, cue=10), dict(label=0, cue=-2)])
def test_wrong_classes(options):
    with pytest.raises(ValueError, match=r"glyph: (label|cue) is -?\d+, expected (0|-1) to 9"):
        glyph(jax.random.key(0), **options)

"""Views, penalties, the classical methods, and what judges a visualization."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import featviz, images, scores
from sparks_jax.featviz import Spectrum, augment, regularize
from sparks_jax.featviz.crops import crop, random_box, random_crops
from tests.tiny import TinyNet, linear_score

EPS = float(jnp.finfo(jnp.float32).eps)
SPAN = (0, 1)
KEYS = jax.random.split(jax.random.key(3), 64)


def picture(size=(9, 12), seed=0):
    return jax.random.uniform(jax.random.key(seed), (*size, 3))


# --- views ---


def test_crops_are_resizing():
    """A whole image and aligned parts of it agree with `jax.image.resize`, enlarged and reduced, inside the border."""
    x = picture((16, 12))
    np.testing.assert_allclose(crop(x, jnp.array([0.0, 0.0, 16.0, 12.0]), (16, 12)), x, atol=2 * EPS)
    for size in ((8, 6), (24, 30)):
        whole = crop(x, jnp.array([0.0, 0.0, 16.0, 12.0]), size)
        expected = jax.image.resize(x, (*size, 3), "linear")
        np.testing.assert_allclose(whole[2:-2, 2:-2], expected[2:-2, 2:-2], atol=20 * EPS)
    np.testing.assert_allclose(crop(x, jnp.array([3.0, 2.0, 4.0, 5.0]), (4, 5)), x[3:7, 2:7], atol=2 * EPS)
    flat = crop(jnp.ones((16, 12, 1)), jnp.array([-3.0, 5.5, 22.0, 3.3]), (7, 9))
    np.testing.assert_allclose(flat, 1, atol=4 * EPS)


def test_boxes_are_inside_and_keep_their_proportions():
    draw = lambda key: random_box((20, 40), (8, 8), key=key, side=0.4, side_spread=0.2, centre_spread=0.5)
    box = jax.vmap(draw)(KEYS)
    assert (box[:, :2] >= 0).all()
    assert (box[:, 0] + box[:, 2] <= 20 + 1e-5).all()
    assert (box[:, 1] + box[:, 3] <= 40 + 1e-5).all()
    np.testing.assert_allclose(box[:, 2], box[:, 3])  # squares, of the shorter side at most
    assert (box[:, 2] >= 0.05 * 20).all()
    assert box[:, 2].std() > 1
    wide = random_box((20, 40), (4, 16), key=KEYS[0], side=1.0, side_spread=0.0)
    np.testing.assert_allclose(wide[2:], [10, 40])


def test_only_a_window_of_a_large_canvas_is_multiplied():
    """The slice changes nothing but the arithmetic; sides follow the progress."""
    x = picture((64, 48))
    options = dict(sides=(0.2, 0.1), side_spread=0.01, centre_spread=0.3)
    view = random_crops((64, 48), (8, 8), **options)
    for key in KEYS[:4]:
        box = random_box((64, 48), (8, 8), key=key, side=0.15, side_spread=0.01, centre_spread=0.3)
        seen, slope = jax.value_and_grad(lambda x: (view(x, key=key, progress=0.5) ** 2).sum())(x)
        expected, also = jax.value_and_grad(lambda x: (crop(x, box, (8, 8)) ** 2).sum())(x)
        np.testing.assert_allclose(seen, expected, rtol=1e-4)
        np.testing.assert_allclose(slope, also, atol=1e-3)
    assert "64,64" not in str(jax.make_jaxpr(lambda x, k: view(x, key=k, progress=0.0))(x, KEYS[0]))


def test_noise_has_its_deviation():
    """Of 90000 draws the deviation errs by 0.0024 of itself; the mean by 0.0033 deviations."""
    zeros = jnp.zeros((300, 300, 1))
    normal = augment.noise(0.2)(zeros, key=KEYS[0], progress=0.0)
    assert normal.std() == pytest.approx(0.2, rel=5 * 0.0024)
    assert abs(normal.mean()) < 5 * 0.0033 * 0.2
    assert (jnp.abs(normal) < 0.2).mean() == pytest.approx(0.6827, abs=5 * 0.0016)
    uniform = augment.noise(0.0, 0.3)(zeros, key=KEYS[0], progress=0.0)
    assert jnp.abs(uniform).max() <= 0.3
    assert uniform.std() == pytest.approx(0.3 / 3**0.5, rel=5 * 0.0024)


def test_padding_and_jitter_shift():
    x = picture((6, 6))
    framed = augment.pad(2, 0.25)(x, key=KEYS[0], progress=0.0)
    assert (framed[2:-2, 2:-2] == x).all()
    assert (framed[:2] == 0.25).all()
    corners = {float(augment.jitter(2)(jnp.arange(36.0).reshape(6, 6, 1), key=k, progress=0.0)[0, 0, 0]) for k in KEYS}
    assert len(corners) == 9, "three places on each side"


def test_rotation_by_known_angles():
    x = picture((6, 6))
    np.testing.assert_allclose(augment.turned(x, 0.0), x, atol=EPS)
    np.testing.assert_allclose(augment.turned(x, np.pi / 2), jnp.rot90(x), atol=1e-5)
    np.testing.assert_allclose(augment.turned(x, np.pi), x[::-1, ::-1], atol=1e-5)
    plane = jnp.meshgrid(jnp.arange(9.0) - 4, jnp.arange(9.0) - 4, indexing="ij")
    down, right = (augment.turned(p[..., None], 0.3)[..., 0] for p in plane)
    inside = slice(2, -2)  # linear interpolation is exact on planes
    np.testing.assert_allclose(
        down[inside, inside], (np.cos(0.3) * plane[0] + np.sin(0.3) * plane[1])[inside, inside], atol=1e-5
    )
    np.testing.assert_allclose(
        right[inside, inside], (np.cos(0.3) * plane[1] - np.sin(0.3) * plane[0])[inside, inside], atol=1e-5
    )


def test_other_views():
    x = picture((8, 8))
    view = lambda made, x=x: made(x, key=KEYS[0], progress=0.0)
    np.testing.assert_allclose(view(augment.rescale(1.0, 1.0)), x, atol=2 * EPS)
    half = view(augment.rescale(2.0, 2.0))
    np.testing.assert_allclose(half, crop(x, jnp.array([2.0, 2.0, 4.0, 4.0]), (8, 8)), atol=4 * EPS)
    np.testing.assert_allclose(view(augment.blur(1.0, 1.0)), images.blur(x, 1.0), atol=4 * EPS)
    flipped = {bool((augment.flip()(x, key=k, progress=0.0) == x).all()) for k in KEYS[:16]}
    assert flipped == {True, False}
    assert view(augment.resized((8, 8))) is x
    assert view(augment.chain()) is x
    small = picture((32, 32))
    assert view(augment.lucid_transforms(32), small).shape == (34, 34, 3)  # 32 + 2·2 - 1 - 1
    assert view(augment.xplique_transforms(32), small).shape == (12, 12, 3)
    with pytest.raises(ValueError, match="nothing is left of an image of 8 × 8 after 8 pixels"):
        view(augment.jitter(8))


# --- penalties ---


def test_penalties_in_closed_form():
    x = jnp.zeros((4, 4, 1)).at[1, 1].set(1.0)
    assert regularize.l1(x) == 0.5
    assert regularize.l2(x) == 0.25
    assert regularize.l2(x, grey=0.0) == 1 / 16
    assert regularize.l_infinity(x, grey=0.0) == 1
    assert regularize.total_variation(x) == pytest.approx(2 * 2 / 12)
    assert regularize.boundary(x, width=1) == pytest.approx(12 / 16 / 4)
    assert regularize.boundary(x, width=1, grey=0.0) == 0
    both = jnp.stack([x, 0 * x])
    assert regularize.l2(both, grey=0.0) == 1 / 32
    assert regularize.total_variation(both) == pytest.approx(2 / 12)
    slope = jax.grad(regularize.roughness)(x)
    np.testing.assert_allclose(slope, 2 / 16 * (x - images.blur(x, 1.0)), atol=EPS)


# --- methods ---


@pytest.mark.parametrize("canvas", [featviz.pixels, featviz.pyramid, featviz.coefficients])
def test_parametrisations_start_grey_and_climb(canvas, key):
    w = jax.random.normal(key, (9, 8, 3))
    made = canvas((9, 8), values_range=(-1, 1))
    start = made.render(made.init(key))
    assert jnp.abs(start).max() < 0.4
    assert made.size == (9, 8)
    still = dict(transforms=augment.chain(), num_steps=30)
    seen = jax.jit(partial(featviz.visualize, linear_score(w), made, **still))(key=key)
    assert seen.image.shape == (9, 8, 3)
    assert jnp.abs(seen.image).max() <= 1
    assert seen.history[-1] > seen.history[0] + 1


def test_fourier_coefficients_follow_their_envelope(key):
    """Equal coefficients give magnitudes 1/f^d; 16 is the lowest frequency's, and the mean's."""
    made = featviz.coefficients((16, 16), values_range=SPAN, decay=1.0, colours=np.eye(1))
    x = featviz.from_pixels(made.render(jnp.full((2, 16, 9, 1), 0.01)), SPAN, jnp.eye(1))
    magnitude = jnp.abs(jnp.fft.rfft2(x[..., 0], norm="ortho"))
    np.testing.assert_allclose(magnitude[1, 1:4] / magnitude[1, 1], [1, (2 / 5) ** 0.5, (2 / 10) ** 0.5], rtol=1e-3)


def test_fourier_of_a_network(key):
    """Lucid's views, a canvas larger than what the network takes, several views."""
    options = dict(size=(24, 20), input_size=16, values_range=SPAN, num_steps=8, num_views=2)
    with pytest.raises(ValueError, match="canvas of 8 × 8 is smaller"):
        featviz.fourier(scores.logit(TinyNet(0), 1), key=key, **options | dict(size=8))
    seen = jax.jit(partial(featviz.fourier, scores.logit(TinyNet(0), 1), **options))(key=key)
    assert seen.image.shape == (24, 20, 3)
    assert (seen.transparency >= 0).all()
    assert seen.history[-1] > seen.history[0]


def test_accentuation_starts_at_the_image_and_stays_near(key):
    x = picture((12, 9)) * 0.8 + 0.1
    made = featviz.photograph(x, values_range=SPAN)
    np.testing.assert_allclose(made.render(made.init(key)), x, atol=40 * EPS)
    f = linear_score(jax.random.normal(key, x.shape))
    still = dict(key=key, values_range=SPAN, transforms=augment.chain(), num_steps=10)
    pull = lambda **options: jax.jit(lambda x: featviz.accentuate(f, x, **still, **options).image)(x)
    free, near = pull(strength=0.0), pull(strength=1e5)
    assert f(free) > f(x)
    assert jnp.square(near - x).mean() < jnp.square(free - x).mean() / 4
    grey = lambda batch: batch.mean(-1)
    kept = pull(strength=1e5, features=grey)
    assert jnp.square(grey(kept) - grey(x)).mean() < jnp.square(grey(free) - grey(x)).mean() / 4
    with pytest.raises(ValueError, match=r"x has pixels from .* values_range is \(0.0, 0.5\)"):
        featviz.photograph(x, values_range=(0, 0.5))
    with pytest.raises(ValueError, match="x has 1 channels and colours 3"):
        featviz.photograph(x[..., :1], values_range=SPAN)


def test_inversion_finds_what_a_layer_keeps(key):
    """A layer that keeps the mean of each quarter gets the quarters back; MACO is a method for it too."""
    quarters = lambda batch: batch.reshape(len(batch), 2, 4, 2, 4, 3).mean((2, 4)) - 0.5
    x = jnp.zeros((8, 8, 3)).at[:4, 4:].set(1.0).at[4:, :4].set(1.0)
    options = dict(key=key, values_range=SPAN, transforms=augment.chain(), num_steps=40, learning_rate=0.2)
    seen = jax.jit(lambda x: featviz.invert(quarters, x, **options).image)(x)
    assert (jnp.sign(quarters(seen[None])) == jnp.sign(quarters(x[None]))).all()
    still = dict(sides=(1.0, 1.0), side_spread=0.0, num_crops=1, spectrum=Spectrum.natural(8), num_steps=40)
    by_phases = featviz.invert(quarters, x, key=key, values_range=SPAN, method=featviz.maco, **still)
    assert by_phases.history[-1] > 0
    with pytest.raises(ValueError, match="the activations of x are not finite"):
        featviz.invert(lambda batch: jnp.nan * batch, x, key=key, values_range=SPAN)


# --- evaluation ---


def test_share_of_real_images_below():
    real = jnp.arange(10.0).reshape(10, 1, 1, 1) + jnp.zeros((10, 2, 2, 1))
    f = lambda x: x.mean()
    assert featviz.share_below(f, jnp.full((4, 4, 1), 6.5), real, chunk=3) == pytest.approx(0.7)
    assert featviz.share_below(f, jnp.full((2, 2, 1), -1.0), real) == 0


def test_distance_of_spectra():
    """0 for the same spectrum, whatever the phases and the contrast; for another slope, by its definition in NumPy."""
    size, law = (24, 20), dict(rolloff=jnp.inf, anisotropy=1.0, gains=(1.0,))
    natural = Spectrum.natural(size, **law)

    def of(**changed):
        canvas = featviz.phases(Spectrum.natural(size, **law | changed), values_range=SPAN)
        image = canvas.render(canvas.init(jax.random.key(0)))
        return featviz.spectrum_distance(image, natural, values_range=SPAN, num_bands=8)

    assert of() < 1e-5
    assert of(contrast=0.5) < 1e-5
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(24), np.fft.fftfreq(20), indexing="ij")).ravel()[1:]
    here, there = (f ** (-2 * slope) / (f ** (-2 * slope)).sum() for slope in (2.36, 1.36))
    band = np.minimum(np.floor(8 * np.log(f * 24) / np.log(0.5**0.5 * 24) + 1e-6), 7)
    filled = [b for b in range(8) if (band == b).any()]
    decades = [np.log10(here[band == b].sum() / there[band == b].sum()) / 2 for b in filled]
    assert of(alpha=2.36) == pytest.approx(np.sqrt(np.mean(np.square(decades))), rel=1e-3)


def test_ranks_and_transfer():
    model = lambda x: x[:, 0, 0]
    xs = jnp.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])[:, None, None]
    labels = jnp.array([2, 1])
    assert [featviz.class_rank(model, x, label).item() for x, label in zip(xs, labels, strict=True)] == [1, 0]
    ranks = featviz.transfer([model, lambda x: -model(x)], xs, labels, chunk=1)
    assert ranks.tolist() == [[1, 0], [1, 2]]
    resized = featviz.transfer([model], jnp.repeat(xs, 2, 1), labels, input_sizes=[(1, 1)])
    assert resized.tolist() == [[1, 0]]


def test_similarity_of_seeds_and_plausibility():
    rows = lambda *r: jnp.array(r, jnp.float32)[:, None, None]
    same = lambda batch: batch
    assert featviz.seed_similarity(same, rows((1, 0), (2, 0))) == pytest.approx(1)
    assert featviz.seed_similarity(same, rows((1, 0), (0, 1), (-1, 0))) == pytest.approx(-1 / 3)
    real = rows((0, 0), (3, 4), (6, 8))
    assert [featviz.plausibility(same, rows((0, 0))[0], real, k=k).item() for k in (1, 2, 3)] == [0, 5, 10]
    with pytest.raises(ValueError, match="one image has no other"):
        featviz.seed_similarity(same, real[:1])
    with pytest.raises(ValueError, match="k is 4, expected one of the 3"):
        featviz.plausibility(same, real[0], real, k=4)
    with pytest.raises(ValueError, match="spectrum_distance: the range"):
        featviz.spectrum_distance(picture(), Spectrum.natural((9, 12)))


def test_opacity_is_capped():
    alpha = jnp.array([[1.0, 2.0], [3.0, 10.0]])
    capped = featviz.opacity(alpha, percentile=75.0)  # interpolated: 4.75
    np.testing.assert_allclose(capped, [[1 / 4.75, 2 / 4.75], [3 / 4.75, 1]], rtol=4 * EPS)
    assert (featviz.opacity(jnp.zeros((2, 2))) == 0).all()

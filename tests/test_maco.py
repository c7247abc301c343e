"""Laws of MACO: the magnitude is kept whatever is optimised, and runs are reproducible, divisible and mappable."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparks_jax import featviz, fourier, scores
from sparks_jax.featviz import Spectrum
from tests.tiny import linear_score

EPS = float(jnp.finfo(jnp.float32).eps)
SPAN = (0, 1)
# The whole canvas, as it is, at each step.
STILL = dict(sides=(1.0, 1.0), side_spread=0.0, noise=0.0, uniform_noise=0.0, num_crops=1, values_range=SPAN)


def weights(size, channels=3, seed=5):
    return jax.random.normal(jax.random.key(seed), (*size, channels))


def unbounded(w, colours, image):
    """A score that is linear in the canvas: it undoes the sigmoid and the colours."""
    return (w * featviz.from_pixels(image, SPAN, colours)).sum()


@pytest.mark.parametrize(("size", "channels"), [((16, 12), 3), ((13, 16), 4), ((9, 9), 1)])
def test_magnitude_is_kept_to_1e_5(size, channels, key):
    """Of the canvas before the sigmoid, after steps of one radian; even, odd and rectangular, with any channels."""
    spectrum = Spectrum.natural(size, gains=(1.0, 1.0, 0.85, 0.5)[:channels])
    f = linear_score(weights(size, channels))
    seen = jax.jit(partial(featviz.maco, f, spectrum=spectrum, num_steps=3, **STILL))(key=key)
    assert seen.image.shape == (*size, channels)
    assert seen.transparency.shape == size
    x = featviz.from_pixels(seen.image, SPAN, spectrum.colours)
    magnitude = np.abs(np.fft.fft2(np.asarray(x, np.float64), axes=(0, 1), norm="ortho"))
    np.testing.assert_allclose(magnitude, spectrum.magnitude, atol=1e-5 * float(spectrum.magnitude.max()))
    assert x.std() == pytest.approx(1, rel=1e-5), "contrast needs no standardisation"


def test_no_part_is_imaginary():
    """The whole plane of magnitudes with the phases of the image has a real inverse: nothing was averaged away."""
    spectrum = Spectrum.natural((8, 10))
    canvas = featviz.phases(spectrum, values_range=SPAN)
    image = canvas.render(canvas.init(jax.random.key(0)))
    x = np.asarray(featviz.from_pixels(image, SPAN, spectrum.colours), np.float64)
    phase = np.angle(np.fft.fft2(x, axes=(0, 1)))
    back = np.fft.ifft2(np.asarray(spectrum.magnitude) * np.exp(1j * phase), axes=(0, 1), norm="ortho")
    # Logits carry the rounding of the sigmoid, up to e^|x| units of it, here |x| < 5.
    assert np.abs(back.imag).max() < 150 * EPS
    np.testing.assert_allclose(back.real, x, atol=150 * EPS)


def test_uniform_phases_have_no_bright_corner():
    """Normal phases, of mean cosine e^(-1/2), add up at the first pixel to e^(-1/2) Σ r / √N; uniform ones do not."""
    spectrum = Spectrum.natural(64)
    canvas = featviz.phases(spectrum, values_range=SPAN)
    corner = lambda phase: jnp.abs(fourier.phase_to_image(spectrum.half, phase, (64, 64))[0, 0])
    keys = jax.random.split(jax.random.key(0), 16)
    deviation = jnp.sqrt(jnp.square(spectrum.magnitude).mean((0, 1)))
    assert (jax.vmap(lambda key: corner(canvas.init(key)))(keys) < 6 * deviation[None]).all()
    normal = jax.vmap(lambda key: corner(jax.random.normal(key, spectrum.half.shape)))(keys)
    coherent = np.exp(-0.5) * spectrum.magnitude.sum((0, 1)) / 64
    assert (coherent > 6 * deviation).all()
    # Each of 16 corners errs by less than one deviation of the image.
    np.testing.assert_allclose(normal.mean(0), coherent, atol=5 / 16**0.5 * float(deviation.max()))


def test_turns_and_translations():
    """2π changes nothing; a phase linear in the frequency moves the image: x(p - d) has F(k) e^{-2πi k·d}."""
    spectrum = Spectrum.natural((9, 7))
    canvas = featviz.phases(spectrum, values_range=SPAN)
    phase = canvas.init(jax.random.key(0))
    image = canvas.render(phase)
    np.testing.assert_allclose(canvas.render(phase + 2 * np.pi), image, atol=20 * EPS)
    ky, kx = jnp.meshgrid(jnp.fft.fftfreq(9), jnp.fft.rfftfreq(7), indexing="ij")
    moved = canvas.render(phase - 2 * np.pi * (2 * ky + 3 * kx)[..., None])
    np.testing.assert_allclose(moved, jnp.roll(image, (2, 3), (0, 1)), atol=40 * EPS)


def test_linear_model_is_solved():
    """⟨w, x⟩ with |F(x)| = r is at most Σ r |F(w)|, at φ = arg F(w): MACO finds 0.99 of it."""
    size = (15, 13)
    spectrum = Spectrum.natural(size, gains=(1.0,))
    w = weights(size, 1)
    f = jax.tree_util.Partial(unbounded, w, spectrum.colours)
    run = partial(featviz.maco, f, spectrum=spectrum, num_steps=100, learning_rate=0.3, **STILL)
    seen = jax.jit(run)(key=jax.random.key(0))
    best = (spectrum.magnitude * jnp.abs(jnp.fft.fft2(w, axes=(0, 1), norm="ortho"))).sum()
    assert 0.99 * best <= seen.history[-1] <= best * (1 + 1e-5)


def test_transparency_is_the_sum_of_absolute_gradients(key):
    """Of Σ w x the gradient is w at each step; of Σ x²/2 it is the image, whatever it has become."""
    size = (8, 8)
    spectrum = Spectrum.natural(size)
    w = weights(size)
    seen = jax.jit(partial(featviz.maco, linear_score(w), spectrum=spectrum, num_steps=5, **STILL))(key=key)
    np.testing.assert_allclose(seen.transparency, 5 * jnp.abs(w).mean(-1), rtol=20 * EPS)
    run = featviz.maco_ascent(lambda x: (x**2).sum() / 2, spectrum=spectrum, num_steps=3, **STILL)
    state, total = run.init(key), 0
    for _ in range(3):
        total += run.read(state, jnp.zeros(0)).image.mean(-1)
        state, _ = jax.jit(run.advance, static_argnums=1)(state, 1)
    np.testing.assert_allclose(state.transparency, total, rtol=100 * EPS)
    assert (state.transparency >= 0).all()


@pytest.fixture(scope="module")
def labelled():
    """MACO of a small network's logits on crops, as a jitted function of label and key, and how often it was traced."""
    from tests.tiny import TinyNet

    traces = []

    def run(f, key):
        traces.append(1)
        options = dict(num_steps=4, num_crops=3, input_size=8, values_range=SPAN)
        return featviz.maco(f, key=key, spectrum=Spectrum.natural((16, 12)), size=(13, 16), **options)

    return TinyNet, jax.jit(run), traces


def test_runs_are_reproducible_mappable_and_compiled_once(labelled):
    net, run, traces = labelled
    keys = jax.random.split(jax.random.key(0), 3)
    single = [run(scores.logit(net(0), label), key) for label, key in zip((0, 1, 2), keys, strict=True)]
    assert single[0].image.shape == (13, 16, 3)
    again = run(scores.logit(net(0), 0), keys[0])
    assert all((a == b).all() for a, b in zip(again, single[0], strict=True)), "same key, same bits"
    run(scores.logit(net(1), 3), keys[0])
    assert len(traces) == 1, "another label or other weights do not recompile"
    model = net(0)
    many = jax.jit(jax.vmap(lambda label, key: run(scores.logit(model, label), key)))(jnp.arange(3), keys)
    for i, one in enumerate(single):
        np.testing.assert_allclose(many.history[i], one.history, atol=1e-5)
        np.testing.assert_allclose(many.image[i], one.image, atol=1e-4)  # four steps of NAdam on rounded gradients
    assert jnp.abs(single[0].image - single[1].image).max() > 0.05


def test_segments_and_snapshots_are_the_same_run(key):
    spectrum = Spectrum.natural(8)
    f = linear_score(weights((6, 6)))
    options = dict(spectrum=spectrum, values_range=SPAN, input_size=6, num_steps=4, num_crops=2)
    whole = jax.jit(partial(featviz.maco, f, **options))(key=key)
    run = featviz.maco_ascent(f, **options)
    advance = jax.jit(run.advance, static_argnums=1)
    state, first = advance(run.init(key), 2)
    assert state.step == 2
    state, second = advance(state, 2)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole.history, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run.read(state, whole.history).image, whole.image, atol=1e-4)
    film = jax.jit(lambda key: featviz.snapshots(run, 4, key=key, num_snapshots=2))(key)
    np.testing.assert_allclose(film.image[1], whole.image, atol=1e-4)
    np.testing.assert_allclose(film.history.ravel(), whole.history, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="4 steps cannot be cut into 3"):
        featviz.snapshots(run, 4, key=key, num_snapshots=3)


def test_chunks_change_rounding_only_and_bound_the_memory():
    """One step with 3 (the last chunk padded) or 8 of 8 crops at once; 64 crops take the memory of 8, 4 at once."""
    spectrum = Spectrum.natural(32)
    f = lambda x: jnp.tanh(x * x).sum()

    def step(num_crops, chunk):
        options = dict(spectrum=spectrum, values_range=SPAN, input_size=24, num_crops=num_crops, chunk=chunk)
        run = featviz.maco_ascent(f, **options)
        return jax.jit(lambda key: run.advance(run.init(key), 1))

    key = jax.random.key(0)
    (whole, score), (parts, other) = (step(8, chunk)(key) for chunk in (8, 3))
    np.testing.assert_allclose(other, score, rtol=20 * EPS)
    np.testing.assert_allclose(parts.transparency, whole.transparency, rtol=1e-4, atol=1e-6)
    memory = [step(n, 4).lower(key).compile().memory_analysis().temp_size_in_bytes for n in (8, 64)]
    assert memory[1] < 1.05 * memory[0] + 8 * 64 * 8  # the keys grow


def test_penalty_and_several_images(key):
    """A penalty is subtracted; an objective of several images sees them together."""
    spectrum = Spectrum.natural(8)
    options = dict(spectrum=spectrum, num_steps=20, **STILL)
    none = lambda x: 0 * x.sum()
    red = lambda x: jnp.square(x[..., 0]).mean()
    free, pressed = (jax.jit(partial(featviz.maco, none, penalty=p, **options))(key=key) for p in (None, red))
    assert red(pressed.image) < red(free.image)
    assert (pressed.transparency == 0).all(), "it shows where the score looked, not the penalty"
    apart = lambda x: -(x[0] * x[1]).mean()
    seen = jax.jit(partial(featviz.maco, apart, num_images=2, **options))(key=key)
    assert seen.image.shape == (2, 8, 8, 3)
    assert seen.transparency.shape == (2, 8, 8)
    assert seen.history[-1] > seen.history[0]


def test_published_settings_are_accepted(key):
    for settings in (featviz.MACO_NEURIPS23, featviz.MACO_XPLIQUE, featviz.MACO_HORAMA):
        run = featviz.maco_ascent(lambda x: x.mean(), spectrum=Spectrum.natural(8), values_range=(-1, 1), **settings)
        jax.eval_shape(run.init, key)
    other = featviz.maco_ascent(lambda x: x.mean(), spectrum=Spectrum.natural(8), optimizer=optax.sgd(1.0), **STILL)
    assert jax.tree.leaves(jax.eval_shape(other.init, key).moments) == []


def test_errors_say_what_to_do(key):
    f, r = (lambda x: x.mean()), Spectrum.natural(8)
    with pytest.raises(ValueError, match=r"range of the pixels .* is not given; pass values_range=\(0, 1\)"):
        featviz.maco(f, key=key, spectrum=r)
    with pytest.raises(ValueError, match=r"values_range is \(1, 0\), expected two increasing numbers"):
        featviz.maco(f, key=key, spectrum=r, values_range=(1, 0))
    with pytest.raises(ValueError, match="canvas of 8 × 8 is smaller than the crops of 16 × 16 .* raise size"):
        featviz.maco(f, key=key, spectrum=r, values_range=SPAN, input_size=16)
    with pytest.raises(ValueError, match=r"returned shape \(3,\) .* for a view of shape \(8, 8, 3\), .* scores.logit"):
        featviz.maco(lambda x: x.mean((0, 1)), key=key, spectrum=r, values_range=SPAN)
    with pytest.raises(ValueError, match="the number of views is 0, expected at least 1"):
        featviz.maco(f, key=key, spectrum=r, values_range=SPAN, num_crops=0)
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8, 3\), expected one Spectrum: Spectrum.natural"):
        featviz.maco(f, key=key, spectrum=jax.tree.map(lambda t: jnp.stack([t, t]), r), values_range=SPAN)
    with pytest.raises(ValueError, match="the number of steps is 0, expected at least 1"):
        featviz.maco(f, key=key, spectrum=r, values_range=SPAN, num_steps=0)
    with pytest.raises(ValueError, match=r"sides is \(64, 32\), expected shares of the canvas in \(0, 1\]"):
        featviz.maco(f, key=key, spectrum=r, values_range=SPAN, sides=(64, 32))
    with pytest.raises(ValueError, match="objective is nan from step 0 on; look at the model's weights"):
        featviz.maco(lambda x: x.mean() * jnp.nan, key=key, spectrum=r, values_range=SPAN, num_steps=2)
    with pytest.raises(ValueError, match="objective is inf from step 2 on; lower learning_rate"):
        featviz.check_history(jnp.array([[0.0, 1.0, jnp.inf], [0.0, 1.0, 2.0]]), "maco")
    with pytest.raises(ValueError, match="size is 0, expected a positive side"):
        featviz.maco(f, key=key, spectrum=r, size=0, values_range=SPAN)

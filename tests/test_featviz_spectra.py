"""Spectra in closed form: the formula, the mean over images, the fit, and other sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import featviz, fourier
from sparks_jax.data import read_spectrum
from sparks_jax.featviz import Spectrum

EPS = float(jnp.finfo(jnp.float32).eps)
SPAN = (0, 1)


def photographs(n=4, size=(12, 10), channels=3, seed=0):
    return jax.random.uniform(jax.random.key(seed), (n, *size, channels), minval=0.05, maxval=0.95)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 9), (7, 5)])
def test_natural_follows_its_formula(size):
    r = Spectrum.natural(size, alpha=1.2, rolloff=0.3, gains=(1.0, 0.5), anisotropy=2.0, contrast=0.7)
    fy, fx = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
    f, angle = np.hypot(fy, fx).ravel()[1:], np.arctan2(fy, fx).ravel()[1:]
    shape = f**-1.2 * np.exp(-((f / 0.3) ** 2)) * 2 ** (np.cos(4 * angle) / 2)
    seen = np.asarray(r.magnitude).reshape(-1, 2)
    np.testing.assert_allclose(seen[1:, 0] / seen[1, 0], shape / shape[0], rtol=2e-5)
    np.testing.assert_allclose(seen[1:, 1], seen[1:, 0] / 2, rtol=4 * EPS)
    assert (seen[0] == 0).all()
    np.testing.assert_allclose(r.contrast, 0.7, rtol=10 * EPS)
    assert r.size == size
    assert r.half.shape == (size[0], size[1] // 2 + 1, 2)
    mirror = np.roll(np.asarray(r.magnitude)[::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_allclose(r.magnitude, mirror, rtol=20 * EPS)


def test_axes_over_diagonals():
    r = Spectrum.natural(16, rolloff=jnp.inf, alpha=0.0, anisotropy=1.7).magnitude[..., 0]
    np.testing.assert_allclose(r[0, 3] / r[3, 3], 1.7, rtol=1e-5)


def test_from_images_is_the_mean_of_moduli():
    """An array, an iterable of batches and one of images agree with NumPy; the mean keeps its sign."""
    images = photographs()
    x = np.asarray(jax.vmap(lambda i: featviz.from_pixels(i, SPAN))(images))
    expected = np.abs(np.fft.fft2(x, axes=(1, 2), norm="ortho")).mean(0)
    expected[0, 0] = 0
    for given in (images, iter([images[:3], images[3:]]), list(images)):
        r = Spectrum.from_images(given, values_range=SPAN, chunk=3)
        np.testing.assert_allclose(r.magnitude, expected, atol=40 * EPS * expected.max())
        np.testing.assert_allclose(r.mean, x.mean((0, 1, 2)), atol=20 * EPS * np.abs(x).max())
    np.testing.assert_allclose(r.colours, fourier.IMAGENET_COLOURS, rtol=EPS)


def test_from_one_image_gives_its_contrast_and_phases_give_it_back():
    image = photographs(1, (9, 7), 1)[0]
    r = Spectrum.from_images(image[None], values_range=SPAN)
    x = featviz.from_pixels(image, SPAN, jnp.eye(1))
    np.testing.assert_allclose(r.contrast, x.std(), rtol=1e-5)
    canvas = featviz.phases(r, values_range=SPAN)
    # Odd by odd, the mean is the only bin that is its own mirror: the phases of the image are free.
    back = canvas.render(jnp.angle(fourier.spectrum(x)))
    np.testing.assert_allclose(back, image, atol=20 * EPS)


def test_other_ranges_and_colours():
    grey = photographs(channels=1)
    same = Spectrum.from_images(grey, values_range=SPAN)
    np.testing.assert_allclose(
        Spectrum.from_images(4 * grey - 2, values_range=(-2, 2)).magnitude, same.magnitude, rtol=1e-4, atol=1e-5
    )
    assert same.colours.shape == (1, 1)
    five = Spectrum.from_images(photographs(channels=5), values_range=SPAN)
    assert (five.colours == jnp.eye(5)).all()


def test_fit_recovers_the_numbers():
    numbers = dict(alpha=1.1, rolloff=0.45, anisotropy=1.6)
    fit = featviz.fit_spectrum(Spectrum.natural((24, 17), gains=(1.0, 0.8, 1.5), **numbers))
    for name, value in numbers.items():
        np.testing.assert_allclose(getattr(fit, name), value, rtol=1e-4)
    np.testing.assert_allclose(fit.gains, (1.0, 0.8, 1.5), rtol=1e-4)
    rising = featviz.fit_spectrum(Spectrum.natural(16, alpha=-1.0, rolloff=jnp.inf, anisotropy=1.0))
    assert rising.rolloff > 50, "no roll-off"


def test_fit_of_images_keeps_their_mean_and_contrast():
    images = photographs(6, (16, 16))
    seen, fit = (make(images, values_range=SPAN) for make in (Spectrum.from_images, Spectrum.fit))
    np.testing.assert_allclose(fit.contrast, seen.contrast, rtol=20 * EPS)
    np.testing.assert_allclose(fit.mean, seen.mean)
    # White noise: no slope. Of 6 images and 255 frequencies the slope errs by a few hundredths.
    assert jnp.abs(featviz.fit_spectrum(fit).alpha) < 0.2
    assert Spectrum.fit(images, size=(8, 12), values_range=SPAN).size == (8, 12)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (12, 7)), ((9, 7), (16, 20)), ((16, 12), (5, 6))])
def test_resizing_a_power_law_is_exact(old, new):
    """The slope is taken out before the interpolation: a spectrum of that slope has nothing else to interpolate."""
    law = dict(rolloff=jnp.inf, anisotropy=1.0, contrast=0.8)
    resized = Spectrum.natural(old, **law).resize(new)
    np.testing.assert_allclose(resized.magnitude, Spectrum.natural(new, **law).magnitude, rtol=1e-4)


def test_resizing_keeps_what_it_must():
    r = Spectrum.natural((16, 18))._replace(mean=jnp.array([0.3, -0.1, 0.0]))
    assert r.resize((16, 18)) is r
    other = r.resize(11)
    np.testing.assert_allclose(other.contrast, r.contrast, rtol=20 * EPS)
    assert (other.mean == r.mean).all()
    assert (other.magnitude[0, 0] == 0).all()
    mirror = np.roll(np.asarray(other.magnitude)[::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_allclose(other.magnitude, mirror, rtol=1e-4)
    twice = r.resize((32, 36)).magnitude[::2, ::2] / r.magnitude
    # Each second frequency is one of before; only the contrast was scaled.
    low = twice[1:7, 1:8]
    np.testing.assert_allclose(low, jnp.broadcast_to(low[:1, :1], low.shape), rtol=1e-4)


def test_stored_half_spectra():
    half = np.abs(np.random.default_rng(0).normal(size=(6, 4, 3))).astype(np.float32)
    half[:, [0, 3]] = half[-np.arange(6), :][:, [0, 3]] * 0.5 + half[:, [0, 3]] * 0.5  # as of a real image
    even, odd = Spectrum.from_array(half), Spectrum.from_array(half, size=(6, 7))
    assert even.size == (6, 6)
    assert odd.size == (6, 7)
    kept = np.asarray(even.half).ravel()[3:] / half.ravel()[3:]
    np.testing.assert_allclose(kept, kept[0], rtol=20 * EPS)
    np.testing.assert_allclose(even.contrast, 1, rtol=20 * EPS)
    mirror = np.roll(np.asarray(even.magnitude)[::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_allclose(even.magnitude, mirror, rtol=20 * EPS)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"pixels are from .* values_range is \(0.0, 1.0\); pass .* \(0, 255\)"):
        Spectrum.from_images(255 * photographs())
    with pytest.raises(ValueError, match="there are no images"):
        Spectrum.from_images([], values_range=SPAN)
    with pytest.raises(ValueError, match=r"shape \(8, 8, 3\), one before \(12, 10, 3\); resize them first"):
        Spectrum.from_images([photographs()[0], photographs(size=(8, 8))[0]], values_range=SPAN)
    with pytest.raises(ValueError, match=r"finite, non-negative magnitudes \(h, w // 2 \+ 1, c\)"):
        Spectrum.from_array(np.full((4, 3, 1), -1.0))
    with pytest.raises(ValueError, match=r"half spectrum has \(6, 4\) bins, expected \(8, 5\)"):
        Spectrum.from_array(np.ones((6, 4, 1)), size=(8, 8))
    with pytest.raises(ValueError, match=r"colours have shape \(2, 2\) for 3 channels"):
        Spectrum.natural(8, colours=np.eye(2))


def test_spectra_from_files(tmp_path):
    """The published layout, channels last, and one plane; other files are refused in a sentence."""
    half = np.random.default_rng(0).uniform(1, 2, (3, 16, 9))
    for name, array in dict(first=half, last=np.moveaxis(half, 0, -1)).items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_allclose(read_spectrum(tmp_path / f"{name}.npy"), np.moveaxis(half, 0, -1), rtol=EPS)
    np.save(tmp_path / "plane.npy", half[0])
    grey = Spectrum.from_array(read_spectrum(tmp_path / "plane.npy"))
    assert grey.magnitude.shape == (16, 16, 1)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_spectrum(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ValueError, match="expected what numpy.save writes"):
        read_spectrum(tmp_path / "text.npy")
    np.save(tmp_path / "row.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"holds shape \(3,\) of float64, expected one spectrum"):
        read_spectrum(tmp_path / "row.npy")

"""Resizing, blur, baselines and perturbations against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import images


def test_nearest_repeats_cells():
    mask = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(images.nearest(mask, (4, 9)), np.kron(mask, np.ones((2, 3))))


@pytest.mark.parametrize("resize", [images.bilinear, images.bicubic])
def test_interpolation_reproduces_a_ramp(resize):
    """A linear function of position stays one, away from the border."""
    coarse, fine = (np.arange(8) + 0.5) / 8, (np.arange(32) + 0.5) / 32
    ramp = resize(jnp.asarray(np.tile(coarse, (8, 1)), jnp.float32), (32, 32))
    np.testing.assert_allclose(ramp[:, 6:-6], np.tile(fine, (32, 1))[:, 6:-6], atol=1e-6)


@pytest.mark.parametrize("resize", [images.nearest, images.bilinear, images.bicubic])
def test_same_size_is_the_same(resize):
    mask = jax.random.uniform(jax.random.key(0), (5, 7))
    np.testing.assert_allclose(resize(mask, (5, 7)), mask, atol=1e-6)


def test_blur_is_a_gaussian_filter():
    """Far from the border a blurred impulse is the product of two normalised Gaussians."""
    impulse = jnp.zeros((41, 41, 1)).at[20, 20, 0].set(1.0)
    profile = np.exp(-((np.arange(41) - 20) ** 2) / (2 * 2.0**2))
    profile /= profile.sum()
    np.testing.assert_allclose(images.blur(impulse, 2.0)[..., 0], np.outer(profile, profile), atol=1e-6)


def test_blur_keeps_a_constant():
    np.testing.assert_allclose(images.blur(jnp.full((9, 5, 3), 0.7), 3.0), 0.7, rtol=1e-5)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (0.5, np.full((2, 2, 3), 0.5)),
        (np.array([1.0, 2.0, 3.0]), np.tile([1.0, 2.0, 3.0], (2, 2, 1))),
        (np.full((2, 2, 3), 4.0), np.full((2, 2, 3), 4.0)),
        (lambda x: x + 1, np.full((2, 2, 3), 1.0)),
    ],
)
def test_baselines(baseline, expected):
    np.testing.assert_array_equal(images.as_baseline(jnp.zeros((2, 2, 3)), baseline), expected)


def test_a_baseline_that_does_not_fit():
    with pytest.raises(
        ValueError, match=r"baseline has shape \(4,\), expected a number, a colour \(3,\) or \(2, 2, 3\)"
    ):
        images.as_baseline(jnp.zeros((2, 2, 3)), jnp.ones(4))


@pytest.mark.parametrize("perturb", [images.inpaint, images.blur_out])
def test_a_full_mask_keeps_the_image(perturb, image):
    np.testing.assert_allclose(perturb(image, jnp.ones((8, 8))), image, atol=1e-6)


def test_an_empty_mask_leaves_the_baseline(image):
    np.testing.assert_array_equal(images.inpaint(image, jnp.zeros((8, 8)), baseline=0.5), np.full((8, 8, 3), 0.5))
    np.testing.assert_allclose(images.blur_out(image, jnp.zeros((8, 8)), sigma=2.0), images.blur(image, 2.0), atol=1e-6)


def test_amplitude_adds(image):
    np.testing.assert_allclose(images.amplitude(image, jnp.full((8, 8), 0.75), sigma=2.0), image + 0.5, atol=1e-6)


def test_heatmap_names_its_choices(image):
    with pytest.raises(ValueError, match="how is 'median', expected one of 'l2', 'max', 'abs', 'sum', 'mean'"):
        images.heatmap(image, "median")


def test_the_norm_of_channels_has_a_derivative_everywhere():
    """The unit vector, and 0 where there is nothing; what is not a number stays so."""
    slope = jax.grad(lambda a: images.heatmap(a).sum())(jnp.array([[[3.0, -4.0], [0.0, 0.0]]]))
    np.testing.assert_allclose(slope, [[[0.6, -0.8], [0, 0]]], atol=1e-7)
    np.testing.assert_array_equal(images.heatmap(jnp.array([[[jnp.nan, 1.0], [0.0, 0.0]]])), [[jnp.nan, 0]])

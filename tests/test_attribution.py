"""Closed forms of the attribution methods beyond the linear score of the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import attribution, designs, images, sensitivity
from sparks_jax.scores import logit
from tests.tiny import TinyNet, linear_score


def test_integrated_gradients_of_a_bilinear_score():
    """f = x₁ x₂ from 0: each variable gets half, whatever the number of steps."""
    x = jnp.array([2.0, 3.0])
    for steps in (1, 2, 7):
        np.testing.assert_allclose(
            sensitivity.integrated_gradients(lambda x: x[0] * x[1], x, num_steps=steps), [3, 3], rtol=1e-6
        )
    trapezoid = sensitivity.integrated_gradients(
        lambda x: x[0] * x[1], x, num_steps=2, quadrature=sensitivity.trapezoid
    )
    np.testing.assert_allclose(trapezoid, [3, 3], rtol=1e-6)


@pytest.mark.parametrize(("steps", "expected"), [(10, 8.04938), (50, 8.00167), (100, 8.00041)])
def test_integrated_gradients_of_a_cube_by_trapezoids(steps, expected):
    """m points on ∫ 3 (2t)² · 2 dt = 8: the error is 8 / (2 (m-1)²)."""
    got = sensitivity.integrated_gradients(
        lambda x: x[0] ** 3, jnp.array([2.0]), num_steps=steps, quadrature=sensitivity.trapezoid
    )
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    exact = sensitivity.integrated_gradients(lambda x: x[0] ** 3, jnp.array([2.0]), num_steps=2)
    np.testing.assert_allclose(exact, 8, rtol=1e-6)


def test_integrated_gradients_from_any_baseline(image):
    w = jax.random.normal(jax.random.key(2), image.shape)
    colour = jnp.array([0.1, 0.2, 0.3])
    for baseline, x0 in [(0.5, 0.5), (colour, colour[None, None]), (images.blur, images.blur(image))]:
        got = attribution.integrated_gradients(linear_score(w), image, num_steps=2, baseline=baseline)
        np.testing.assert_allclose(got, w * (image - x0), atol=1e-5)


def test_the_smoothgrad_family_on_a_square(key):
    """On Σ x² at x = 0.7, σ = 0.2: means 2x = 1.4 and 4x² + 4σ² = 2.12, variance 4σ² = 0.16; five standard errors."""
    x, n = jnp.full(64, 0.7), 4096
    options = dict(key=key, sigma=0.2, num_samples=n, chunk=512)
    f = lambda x: (x**2).sum()
    m = 64 * n  # every coordinate is a sample of the same law
    np.testing.assert_allclose(sensitivity.smoothgrad(f, x, **options).mean(), 1.4, atol=5 * 0.4 / m**0.5)
    np.testing.assert_allclose(sensitivity.squaregrad(f, x, **options).mean(), 2.12, atol=5 * 1.15 / m**0.5)
    np.testing.assert_allclose(sensitivity.vargrad(f, x, **options).mean(), 0.16, atol=5 * 0.23 / m**0.5)


def test_rise_of_a_linear_score(key):
    """Cells as pixels, unshifted: φ_j = q Σ w + (1-q) w_j; w = (3, 1, 0, -2), q = 1/2 gives (2.5, 1.5, 1, 0)."""
    w = jnp.array([3.0, 1.0, 0.0, -2.0])

    def seen(k):
        mask = jax.random.bernoulli(k, 0.5, (4,)).astype(jnp.float32)
        return (w @ mask) * mask, mask

    from sparks_jax import stream

    weighted, visible = stream.mean_over(seen, jax.random.split(key, 2**14), 2**12)
    # The standard deviation of a score given one pixel is at most sqrt(14)/2 = 1.9; half of the masks show it.
    np.testing.assert_allclose(weighted / visible, [2.5, 1.5, 1, 0], atol=5 * 1.9 / 2**6.5)


def test_rise_ranks_the_pixels_of_a_linear_score(key):
    w = jnp.zeros((16, 16, 1)).at[4:8, 8:12].set(1.0)
    got = attribution.rise(linear_score(w), jnp.ones((16, 16, 1)), key=key, num_masks=2048, grid=4, chunk=256)
    assert got[4:8, 8:12].min() > np.delete(got[:, :4], [], 1).max()
    peak = np.unravel_index(got.argmax(), got.shape)
    assert 3 <= peak[0] <= 8
    assert 7 <= peak[1] <= 12


def test_masks_of_rise_keep_the_share_asked_and_move(key):
    masks = jax.vmap(lambda k: attribution.random_mask((30, 20), key=k, grid=5, keep=0.3))(jax.random.split(key, 2048))
    assert masks.min() >= 0
    assert masks.max() <= 1
    # The mean of a mask over draws is q at every pixel; the standard deviation of a cell is sqrt(q (1-q)) = 0.46.
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=5 * 0.46 / 2048**0.5)
    # Cells are 6 and 4 pixels and the shifts are uniform over them: no border between cells stays in place.
    assert len({np.asarray(m).tobytes() for m in masks[:16]}) == 16


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (4, 3), (2, 1), (8, 8), (5, 5)])
def test_occlusion_covers_every_pixel(patch, stride):
    """Of a score that counts the pixels, every patch inside removes patch²; overlaps are averaged, not summed."""
    x = jnp.ones((8, 8, 1))
    got = attribution.occlusion(lambda x: x.sum(), x, patch=patch, stride=stride)
    assert (got > 0).all()
    np.testing.assert_allclose(got[0, 0], patch**2, rtol=1e-6)


def test_occlusion_with_a_colour(image):
    w = jax.random.normal(jax.random.key(2), image.shape)
    colour = jnp.array([0.2, 0.5, 0.9])
    got = attribution.occlusion(linear_score(w), image, patch=1, stride=1, baseline=colour)
    np.testing.assert_allclose(got, (w * (image - colour[None, None])).sum(-1), atol=1e-5)


@pytest.mark.parametrize(("patch", "stride"), [(9, 1), (4, 5), (4, 0)])
def test_occlusion_refuses_what_leaves_holes(image, patch, stride):
    with pytest.raises(ValueError, match=f"patch is {patch} and stride is {stride} for an image of 8 × 8"):
        attribution.occlusion(lambda x: x.sum(), image, patch=patch, stride=stride)


def test_grad_cam_of_a_pooled_linear_head(image):
    """Global mean and a linear layer: relu(Σ_k W_ck A_k) / (gh gw), enlarged."""
    network = TinyNet(3)
    acts = np.asarray(network.features(image[None])[0])
    for label in range(5):
        expected = np.maximum(0, acts @ np.asarray(network.linear.kernel[...])[:, label]) / 16
        got = attribution.grad_cam(network.features, logit(network.head, label), image, resize=images.nearest)
        np.testing.assert_allclose(got, np.kron(expected, np.ones((2, 2))), atol=1e-6)


def test_grad_cam_of_negative_evidence_is_zero(image):
    got = attribution.grad_cam(lambda x: x, lambda acts: -acts.sum(), image)
    np.testing.assert_array_equal(got, 0)


def test_grad_cam_without_a_grid(image):
    with pytest.raises(ValueError, match=r"features returned shape \(1, 3\) for one image, expected \(1, gh, gw, d\)"):
        attribution.grad_cam(lambda x: x.mean((1, 2)), lambda acts: acts.sum(), image)


def test_sobol_of_an_interaction(key):
    """f = x₁ x₂ of two cells faded by U[0, 1]: ST = 4/7 each (V = 7/144, V₁ = V₂ = 3/144), and 0 elsewhere."""
    f = lambda x: x[0, 0, 0] * x[1, 1, 0]
    got = attribution.sobol(f, jnp.ones((2, 2, 1)), key=key, grid=2, num_designs=4096, chunk=4096)
    np.testing.assert_allclose(got, [[4 / 7, 0], [0, 4 / 7]], atol=0.02)


@pytest.mark.parametrize("perturb", [images.inpaint, images.blur_out, images.amplitude])
@pytest.mark.parametrize("upsample", [images.nearest, images.bilinear])
def test_sobol_finds_what_matters(perturb, upsample, key):
    """The score reads one quarter of the picture; every perturbation and upsampling points there."""
    x = jax.random.uniform(jax.random.key(5), (8, 8, 3))
    w = jnp.zeros((8, 8, 3)).at[4:, :4].set(1.0) * jnp.sign(x - x.mean())
    got = attribution.sobol(
        linear_score(w),
        x,
        key=key,
        grid=2,
        num_designs=64,
        perturb=perturb,
        upsample=upsample,
        resize=images.nearest,
    )
    assert got[6, 1] > 2 * jnp.delete(got.ravel(), jnp.flatnonzero((got == got[6, 1]).ravel())).max()


def test_sobol_takes_any_design_and_estimator(key, image):
    w = jnp.zeros((8, 8, 3)).at[:2, :2].set(1.0)
    for design in (designs.sobol, designs.halton, designs.latin_hypercube):
        for estimator in (sensitivity.jansen, sensitivity.glen_isaacs):
            got = attribution.sobol(
                linear_score(w),
                image,
                key=key,
                grid=4,
                design=design,
                estimator=estimator,
                resize=images.nearest,
            )
            assert got.argmax() == 0

"""Streaming sums agree with numpy whatever the chunk, and hold one chunk at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import stream

CHUNKS = [1, 5, 12, 37, 1000]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_moments_are_those_of_numpy(chunk):
    x = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
    mean, variance = stream.moments_over(lambda v: {"square": v**2}, jnp.asarray(x), chunk)
    np.testing.assert_allclose(mean["square"], (x**2).mean(0), rtol=37 * 2**-23)
    np.testing.assert_allclose(variance["square"], (x**2).var(0, ddof=1), rtol=37 * 2**-22)
    np.testing.assert_allclose(
        stream.mean_over(lambda v: {"square": v**2}, jnp.asarray(x), chunk)["square"], mean["square"], rtol=37 * 2**-23
    )


@pytest.mark.parametrize("chunk", CHUNKS)
def test_extremes_are_those_of_numpy(chunk):
    x = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
    x[5, 2] = np.nan
    least, greatest = stream.extremes_over(lambda v: {"cube": v**3}, jnp.asarray(x), chunk)
    np.testing.assert_array_equal(least["cube"], np.float32(jnp.asarray(x) ** 3).min(0))
    np.testing.assert_array_equal(greatest["cube"], np.float32(jnp.asarray(x) ** 3).max(0))
    half = stream.extremes_over(lambda v: v, jnp.asarray(x, jnp.bfloat16), chunk)
    assert half[0].dtype == half[1].dtype == jnp.bfloat16


@pytest.mark.parametrize("chunk", CHUNKS)
def test_stack_keeps_the_order(chunk):
    double, index = stream.stack_over(lambda v: (2 * v, v[None]), jnp.arange(37), chunk)
    np.testing.assert_array_equal(double, 2 * np.arange(37))
    np.testing.assert_array_equal(index, np.arange(37)[:, None])


def test_variance_survives_a_large_offset():
    """The variance of 0 … 127 is 128 · 129 / 12 whatever is added, here 2^20, where float32 resolves 1/8."""
    x = jnp.arange(128.0) + 2.0**20
    for chunk in CHUNKS:
        variance = stream.moments_over(lambda v: v, x, chunk).variance
        np.testing.assert_allclose(variance, 128 * 129 / 12, rtol=1e-4)


def test_one_sample_has_no_variance():
    assert stream.moments_over(lambda v: v, jnp.ones(1), 4).variance == 0


def test_a_half_precision_mean_is_summed_in_single_precision():
    """4096 ones and a half sum to 4096.5; in bfloat16 the running sum would stop at 256."""
    ones = jnp.ones(4096, jnp.bfloat16)
    mean = stream.mean_over(lambda v: v, ones, 64)
    assert mean.dtype == jnp.bfloat16
    assert mean == 1


@pytest.mark.parametrize("num_samples", [1, 2, 10, 33, 97, 127, 2112, 4000])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_chunks_waste_little(num_samples, chunk):
    size = stream.chunk_size(num_samples, chunk)
    num_chunks = -(-num_samples // size)
    assert 1 <= size <= chunk
    assert 0 <= num_chunks * size - num_samples < num_chunks
    # No more than twice the fewest chunks possible: the price of a size that divides the number of samples.
    assert num_chunks <= 2 * -(-num_samples // chunk)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_is_positive(chunk):
    with pytest.raises(ValueError, match=f"chunk must be a positive integer, got {chunk}"):
        stream.mean_over(lambda v: v, jnp.ones(4), chunk)


def test_gradient_through_a_stream():
    """d/da of the mean of a x² is the mean of x²."""
    x = jnp.arange(5.0)
    slope = jax.grad(lambda a: stream.mean_over(lambda v: a * v**2, x, 2))(1.0)
    np.testing.assert_allclose(slope, 6.0)


def test_values_without_elements_are_stacked():
    assert stream.stack_over(lambda v: jnp.zeros((0, 2)), jnp.arange(5), 2).shape == (5, 0, 2)

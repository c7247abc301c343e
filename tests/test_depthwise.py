"""Our depthwise convolution is JAX's: values and derivatives of every order and mode; gradients are made of slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax.models.depthwise import DepthwiseConv, depthwise, patches, same_padding

CASES = [
    ((8, 7), 3, 2),
    ((7, 10), 5, 1),
    ((7, 10), 5, 2),
    ((9, 8), 5, 3),
    ((6, 5), 2, 2),
    ((5, 4), 1, 2),
    ((1, 2), 5, 2),
]
each_case = pytest.mark.parametrize(("shape", "size", "stride"), CASES)
# Sums of at most 25 products of order one, of which float32 rounds each and every partial sum: 50 · 2^-23, and slack.
ATOL = 200 * 2**-23


def native(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip


def drawn(shape, size):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, *shape, 3), (size, size, 3)] * 2
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@each_case
def test_values_and_derivatives(shape, size, stride):
    """The value, both tangents at once and each alone, both cotangents at once and each alone."""
    x, kernel, dx, dkernel = drawn(shape, size)

    @jax.jit(static_argnums=0)
    def all_of(conv):
        f = lambda x, kernel: conv(x, kernel, stride)
        y, pullback = jax.vjp(f, x, kernel)
        _, both = jax.jvp(f, (x, kernel), (dx, dkernel))
        along_x = jax.jvp(lambda x: f(x, kernel), (x,), (dx,))[1]
        to_kernel = jax.vjp(lambda kernel: f(x, kernel), kernel)[1](jnp.cos(y))[0]
        return y, both, along_x, to_kernel, *pullback(jnp.cos(y))

    for got, expected in zip(all_of(depthwise), all_of(native), strict=True):
        np.testing.assert_allclose(got, expected, atol=ATOL * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_a_gradient(stride):
    """What training on a map needs: d/dK of |d/dx|²."""
    x, kernel, *_ = drawn((7, 6), 3)

    @jax.jit(static_argnums=0)
    def penalty(conv):
        through = lambda x, kernel: jnp.tanh(conv(x, kernel, stride)).sum()
        return jax.grad(lambda kernel: jnp.square(jax.grad(through)(x, kernel)).sum())(kernel)

    np.testing.assert_allclose(penalty(depthwise), penalty(native), rtol=1e-4, atol=1e-4)


def test_under_vmap():
    """Over images, and over kernels."""
    x, kernel, _, other = drawn((5, 6), 3)
    one = jax.jit(jax.vmap(lambda x: depthwise(x[None], kernel, 2)[0]))(x)
    np.testing.assert_allclose(one, native(x, kernel, 2), atol=ATOL)
    both = jax.jit(jax.vmap(lambda kernel: depthwise(x, kernel, 2)))(jnp.stack([kernel, other]))
    np.testing.assert_allclose(both[1], native(x, other, 2), atol=ATOL)


def test_one_entry_shifts_the_image():
    x, *_ = drawn((4, 5), 3)
    above = jnp.zeros((3, 3, 3)).at[0, 1].set(1.0)
    np.testing.assert_array_equal(depthwise(x, above)[:, 1:], x[:, :-1])
    np.testing.assert_array_equal(depthwise(x, above)[:, 0], 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_input_gradient_takes_slices_of_one_padded_array(stride):
    """A pad for each of the 25 entries of the filter is what XLA:CPU is slow on."""
    x, kernel, *_ = drawn((8, 8), 5)

    def pads(conv):
        gradient = jax.jit(jax.grad(lambda x: jnp.sin(conv(x, kernel, stride)).sum()))
        return gradient.lower(x).compile().as_text().count(" pad(")

    assert pads(depthwise) <= 4
    assert pads(sum_of_slices) >= 20


def sum_of_slices(x, kernel, stride):
    """The same sum of slices, differentiated automatically."""
    columns = x.shape[-1]
    seen = patches(x, len(kernel), stride)
    return sum(
        seen[..., i * columns : (i + 1) * columns] * k[None, None, None] for i, k in enumerate(kernel.reshape(-1, 3))
    )


@each_case
def test_a_convolution_is_a_product_with_patches(shape, size, stride):
    x, *_ = drawn(shape, size)
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 4))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    seen = jax.jit(patches, static_argnums=(1, 2))(x, size, stride)
    np.testing.assert_allclose(seen @ kernel.reshape(-1, 4), expected, atol=4 * ATOL)


def test_padding_is_that_of_tensorflow():
    for length in range(1, 12):
        for size in range(1, 6):
            for stride in range(1, 4):
                (expected,) = jax.lax.padtype_to_pads((length,), (size,), (stride,), "SAME")
                assert same_padding(length, size, stride) == tuple(expected)


def test_layer_computes_in_the_wider_type():
    from flax import nnx

    layer = DepthwiseConv(3, size=3, rngs=nnx.Rngs(0))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), layer)
    x = jnp.ones((1, 4, 4, 3), jnp.bfloat16)
    assert layer(x).dtype == jnp.float32
    assert half(x).dtype == jnp.bfloat16
    # 9 products of relative error 2^-8 each, with sums in bfloat16.
    np.testing.assert_allclose(np.asarray(half(x), np.float32), layer(x), atol=0.2)


def test_benchmark_runs_and_ours_is_faster(optimized):
    """At 64² the ratio is 6 to 9; anything above 1 is not an accident of a busy machine."""
    from experiments.benchmarks.depthwise import Config, main

    row = main(Config(smoke=True))[2]
    assert row["shifted"] < row["grouped"]
    assert row["gradient"] > 0

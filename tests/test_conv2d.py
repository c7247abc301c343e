"""Our convolution is JAX's: values and derivatives of every order and mode, at odd sizes, strides and paddings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax.models.conv2d import conv2d

CASES = [
    ((9, 8), 3, 1, ((1, 1), (1, 1))),
    ((11, 12), 7, 2, ((3, 3), (3, 3))),
    ((8, 8), 3, 2, ((0, 1), (0, 1))),
    ((7, 9), 5, 3, ((2, 1), (0, 2))),
    ((6, 7), 2, 3, ((0, 0), (0, 0))),
]
each_case = pytest.mark.parametrize(("size", "side", "stride", "padding"), CASES)


def native(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def drawn(size, side):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, *size, 3), (side, side, 3, 4)] * 2
    return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]


@each_case
def test_values_and_gradients(size, side, stride, padding):
    """Sums of at most 7 · 7 · 4 products of order one: float32 rounds by less than 200 · 2^-22."""
    x, kernel, dx, dkernel = drawn(size, side)

    @partial(jax.jit, static_argnums=0)
    def all_of(conv):
        y, pullback = jax.vjp(lambda x, k: conv(x, k, stride, padding), x, kernel)
        tangent = jax.jvp(lambda x, k: conv(x, k, stride, padding), (x, kernel), (dx, dkernel))[1]
        return y, tangent, *pullback(jnp.cos(y))

    for got, expected in zip(all_of(conv2d), all_of(native), strict=True):
        np.testing.assert_allclose(got, expected, atol=200 * 2**-22 * max(1, np.abs(expected).max()))


def test_gradient_of_a_gradient():
    """What training on a map needs: d/dK of |d/dx|²."""
    x, kernel, *_ = drawn((7, 6), 3)

    def penalty(conv):
        through = lambda x, k: jnp.tanh(conv(x, k, 2, ((1, 1), (1, 1)))).sum()
        return jax.grad(lambda k: jnp.square(jax.grad(through)(x, k)).sum())(kernel)

    np.testing.assert_allclose(penalty(conv2d), penalty(native), rtol=1e-4, atol=1e-4)


def test_under_vmap_and_in_half_precision():
    x, kernel, *_ = drawn((6, 6), 3)
    one = jax.vmap(lambda x: conv2d(x[None], kernel, 1, ((1, 1), (1, 1)))[0])(x)
    np.testing.assert_allclose(one, native(x, kernel, 1, ((1, 1), (1, 1))), atol=1e-5)
    low = [a.astype(jnp.bfloat16) for a in (x, kernel)]
    grads = jax.grad(lambda x, k: conv2d(x, k, 2, ((1, 1), (1, 1))).sum(), (0, 1))(*low)
    assert [g.dtype for g in grads] == [jnp.bfloat16] * 2


def test_no_work_for_a_derivative_that_is_not_asked():
    """The gradient in the input alone holds no product with the kernel's tangent."""
    x, kernel, *_ = drawn((6, 6), 3)
    program = str(jax.make_jaxpr(jax.grad(lambda x: conv2d(x, kernel, 1, ((1, 1), (1, 1))).sum()))(x))
    assert "dot_general" not in program
    assert program.count("conv_general_dilated[") == 2

"""Which functions are proved affine: heads with and without a bend in them, and programs that try to hide one."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from sparks_jax.models.resnet import resnet18
from sparks_jax.scores import direction, log_prob, logit, margin, probability
from sparks_jax.sensitivity import is_affine
from tests.tiny import TinyNet

ACTS = jax.ShapeDtypeStruct((4, 4, 6), jnp.float32)


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda primals, tangents: (straight_through(*primals), tangents[0]))


@jax.custom_vjp
def twice(x):
    return 2 * x


twice.defvjp(lambda x: (2 * x, None), lambda _, ct: (2 * ct,))


def test_scores_of_a_linear_head():
    head = TinyNet(0).head
    for score in (logit(head, 2), margin(head, 1, 3), direction(lambda a: a, jnp.arange(6.0))):
        assert is_affine(score, ACTS)
    for score in (log_prob(head, 2), probability(head, 2), margin(head, 1)):
        assert not is_affine(score, ACTS)


def test_of_traced_weights_and_labels():
    """Inside of `jit` and `vmap`, where the weights and the label are tracers, nothing changes."""

    @jax.jit
    def of(network, labels):
        answers = []
        jax.vmap(lambda label: answers.append(is_affine(logit(network.head, label), ACTS)) or 0)(labels)
        assert answers == [True]
        return 0

    of(TinyNet(0), jnp.arange(3))


def test_halves_of_a_residual_network():
    network = nnx.eval_shape(lambda: resnet18(num_classes=5, rngs=nnx.Rngs(0)))
    for stage, expected in [(4, True), (3, False)]:
        acts = jax.eval_shape(
            lambda n, x: n.features(x, stage), network, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        )
        got = []
        jax.eval_shape(lambda n, a: got.append(is_affine(lambda a: n.head(a, stage), a)) or 0, network, acts)
        assert got == [expected]


@pytest.mark.parametrize(
    "f",
    [
        lambda a: jnp.pad(a, ((1, 0), (0, 0), (0, 0)), constant_values=3.0)[::-1].cumsum(0).T,
        lambda a: jnp.concatenate([a, 1 - a / 3], -1).reshape(-1)[jnp.array([3, 1])],
        lambda a: jnp.where(jnp.arange(6) > 2, a, 7.0).astype(jnp.bfloat16),
        lambda a: jax.checkpoint(lambda a: 2 * a)(twice(a)),
        lambda a: jax.lax.conv_general_dilated(a[None, :, :, :1], jnp.ones((3, 3, 1, 2)), (1, 1), "SAME",
                                               dimension_numbers=("NHWC", "HWIO", "NHWC")),
        lambda a: nnx.avg_pool(a[None], (2, 2), (2, 2)),
        lambda a: jnp.sin(jnp.arange(3.0)),
        lambda a: (a, jnp.einsum("hwd,dm->m", a, jnp.ones((6, 2)))),
    ],
)  # fmt: skip
def test_affine(f):
    with jax.numpy_rank_promotion("allow"):
        assert is_affine(f, ACTS)


@pytest.mark.parametrize(
    "f",
    [
        lambda a: a * a,
        lambda a: 1 / (1 + a),
        lambda a: a.max(),
        lambda a: jnp.where(a > 0, a, 0),
        lambda a: a[a.argmax() % 4],
        lambda a: straight_through(a),
        lambda a: a.astype(jnp.int32).astype(jnp.float32),
        lambda a: jnp.sort(a),
        lambda a: jax.nn.relu(a),
        lambda a: (a.sum(), jnp.abs(a)),
        lambda a: a @ a[0].T,
        lambda a: jax.lax.fori_loop(0, 3, lambda _, b: b * b, a),
    ],
)
def test_not_affine(f):
    assert not is_affine(f, ACTS)

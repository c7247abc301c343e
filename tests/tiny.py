"""A network of two smooth layers with the halves that methods ask for, and a linear score."""

import jax
import jax.numpy as jnp
from flax import nnx

NUM_CLASSES = 5


class TinyNet(nnx.Module):
    """A 3×3 convolution with stride 2, tanh, global mean, linear: smooth, so that quadratures converge."""

    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, 6, (3, 3), strides=2, rngs=rngs)
        self.linear = nnx.Linear(6, NUM_CLASSES, rngs=rngs)

    def features(self, images):
        return jnp.tanh(self.conv(images))

    def head(self, acts):
        return self.linear(acts.mean((1, 2)))

    def __call__(self, images):
        return self.head(self.features(images))


class TinyReluNet(TinyNet):
    """The same with ReLUs, which some methods ask for."""

    def features(self, images):
        return jax.nn.relu(self.conv(images))


def linear_score(w):
    """The score whose explanation is known: a weighted sum of pixels."""
    return jax.tree_util.Partial(_weighted_sum, w)


def linear_logits(w):
    """Two classes whose logits are 0 and the linear score."""
    rows = jnp.stack([jnp.zeros(w.size), w.ravel()])
    return lambda x: rows @ x.ravel()


def _weighted_sum(w, x):
    return (w * x).sum()

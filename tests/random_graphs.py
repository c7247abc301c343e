"""Random functions from an image to a few numbers, out of everything that bounds have rules for."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

UNARY = {
    "relu": jax.nn.relu, "relu6": jax.nn.relu6, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "elu": jax.nn.elu,
    "leaky": jax.nn.leaky_relu, "abs": jnp.abs, "square": lambda a: a * a, "cube": lambda a: a**3,
    "exp": lambda a: jnp.exp(-a), "sin": jnp.sin, "cos": jnp.cos, "rsqrt": lambda a: lax.rsqrt(1 + jnp.square(a)),
    "clip": lambda a: jnp.clip(a, -0.3, 0.4), "erf": lax.erf, "atan": jnp.arctan,
    "log": lambda a: jnp.log1p(jnp.abs(a)), "sqrt": lambda a: jnp.sqrt(1 + jnp.abs(a)),
    "softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax, "sign": lambda a: a * jnp.sign(a - 0.1),
    "lse": lambda a: jax.nn.logsumexp(a, -1, keepdims=True), "cumsum": lambda a: jnp.cumsum(a, -1),
    "norm": lambda a: _norm(a - a.mean(-1, keepdims=True)), "floor": lambda a: jnp.floor(3 * a) + a,
    "power": lambda a: (1 + jnp.abs(a)) ** 1.7, "gelu_exact": lambda a: jax.nn.gelu(a, approximate=False),
}  # fmt: skip
BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "max": jnp.maximum,
    "min": jnp.minimum, "concat": lambda a, b: jnp.concatenate([a, -b], -1), "div": lambda a, b: a / (2 + jnp.tanh(b)),
    "where": lambda a, b: jnp.where(a > 0.1, a, b * 0.5), "outer": lambda a, b: jnp.where(a > b, a, b),
}  # fmt: skip
SPATIAL = {
    "maxpool": lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    "overlap": lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"),
    "minpool": lambda a: lax.reduce_window(a, jnp.inf, lax.min, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "avgpool": lambda a: lax.reduce_window(a, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME") / 4,
    "mean": lambda a: a.mean((1, 2), keepdims=True), "slice": lambda a: a[:, ::2, 1:],
    "take": lambda a: a[:, np.array([0, 1, 1])], "turn": lambda a: a.transpose(0, 2, 1, 3)[:, ::-1],
    "pad": lambda a: jnp.pad(a, ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=0.5),
    "largest": lambda a: a.max((1, 2), keepdims=True), "attention": lambda a: _attention(a),
}  # fmt: skip


def random_graph(random):
    """A function of one image `(h w c)`, an image, and a radius, all drawn by a `random.Random`."""
    rng = np.random.default_rng(random.getrandbits(32))  # of the weights
    shape = (random.randint(3, 5), random.randint(3, 5), random.randint(1, 3))
    values, steps = [np.zeros((1, *shape), np.float32)], []

    def append(fn, *taken):
        values.append(np.zeros(jax.eval_shape(fn, *(values[i] for i in taken)).shape, np.float32))
        steps.append((fn, taken))

    for _ in range(random.randint(4, 8)):
        i = random.randrange(max(0, len(values) - 3), len(values))
        large = min(values[i].shape[1:3]) >= 3
        kind = random.choice(["unary", "unary", "binary", "dense", "norm", *(["spatial", "conv", "conv"] * large)])
        if kind == "unary":
            append(UNARY[random.choice(list(UNARY))], i)
        elif kind == "binary":
            same = [j for j, v in enumerate(values) if v.shape == values[i].shape]
            append(BINARY[random.choice(list(BINARY))], i, random.choice(same))
        elif kind == "spatial":
            append(SPATIAL[random.choice(list(SPATIAL))], i)
        else:
            layer = {"conv": _convolution, "dense": _dense, "norm": _scale}[kind]
            append(layer(random, rng, values[i].shape[-1]), i)
    head = rng.normal(size=(values[-1].size, 3)).astype(np.float32) / np.sqrt(values[-1].size)

    def f(x):
        made = [x[None]]
        for fn, taken in steps:
            made.append(fn(*(made[i] for i in taken)))
        return made[-1].ravel() @ head

    return f, jnp.asarray(rng.normal(size=shape), jnp.float32), 10 ** random.uniform(-3, -0.3)


def _convolution(random, rng, channels):
    groups = channels if random.random() < 0.3 else 1
    kernel = rng.normal(size=(3, 3, channels // groups, groups * random.randint(1, 2))).astype(np.float32) / 3
    stride, padding = random.randint(1, 2), random.choice(["SAME", "VALID"])
    return lambda a: lax.conv_general_dilated(
        a, kernel, (stride, stride), padding, feature_group_count=groups, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _dense(random, rng, channels):
    kernel = rng.normal(size=(channels, random.randint(1, 4))).astype(np.float32)
    bias = rng.normal(size=(1, 1, 1, kernel.shape[1])).astype(np.float32)
    return lambda a: a @ kernel + bias


def _scale(random, rng, channels):
    del random
    mean, scale, bias = rng.normal(size=(3, 1, 1, 1, channels)).astype(np.float32)
    return lambda a: (a - mean) * (lax.rsqrt(np.square(mean) + 0.1) * scale) + bias


def _norm(d):
    return d * lax.rsqrt(jnp.square(d).mean(-1, keepdims=True) + 0.1)


def _attention(a):
    t = a.reshape(-1, a.shape[-1])
    return (jax.nn.softmax(0.3 * t @ t.T) @ t).reshape(a.shape)

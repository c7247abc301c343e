"""Claim: EfficientNet-Lite0 runs at least 3 times as fast with shifted multiply-adds as with grouped convolutions.

Prints milliseconds per image inside `jax.lax.map`, where explanation methods evaluate the network, for each number of
images at once: forward with JAX's grouped convolution and with ours, and the input gradient with ours. The runs take
turns in one process and the best of each counts.

Command:  python experiments/benchmarks/depthwise.py [--smoke] [--batches 1 4 16]
Hardware: 2 CPU cores with AVX-512.
Time:     2 minutes; --smoke a quarter of a minute, most of it compilation.
Expected: jax 0.10.1, one form after the other on an otherwise idle machine (a busy one doubles all, the ratios stay):
          batch   grouped   shifted   ratio   gradient / forward
              1        35       4.4     8.4   2.6
              4        31       4.1     7.6   2.9
             16        34       6.2     5.5   2.7
             32        36       7.5     4.8   2.8
          The best is 4 at once: at 16 the activations of the first stages no longer fit a cache of 32 MB.
          jax 0.12.0.1: 39, 4.8 and a ratio of 8.1 at batch 4.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import tyro
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.models import depthwise
from sparks_jax.models.efficientnet import EfficientNetLite0


@dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # images at once
    images: int = 32
    size: int = 224
    repeats: int = 3  # the best of which counts
    smoke: bool = False


def grouped(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "b gh gw c"]:
    """The depthwise convolution as JAX has it."""
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip


def compiled(evaluate: Callable[..., Any], model: Any, images: Array, batch: int, form: Any) -> Callable[[], Any]:
    """One program that evaluates the model on all images, a batch at once, with this depthwise convolution."""
    run = jax.jit(lambda model, images: jax.lax.map(lambda x: evaluate(model, x), images, batch_size=batch))
    with mock.patch.object(depthwise, "depthwise", form):
        program = run.lower(model, images).compile()
    return lambda: program(model, images)


def logit(model: Any, x: Float[Array, "h w c"]) -> Float[Array, ""]:
    """The first logit of one image."""
    return model(x[None])[0, 0]


def input_gradient(model: Any, x: Float[Array, "h w c"]) -> Float[Array, ""]:
    """The first logit and its gradient with respect to the image, summed so that nothing large is stored."""
    value, gradient = jax.value_and_grad(logit, 1)(model, x)
    return value + gradient.sum()


def milliseconds(runs: dict[str, Callable[[], Any]], config: Config) -> dict[str, float]:
    """Per image, the best of some runs that take turns, after one that does not count."""
    seconds = {name: [] for name in runs}
    for _ in range(config.repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(each[1:]) / config.images for name, each in seconds.items()}


def main(config: Config) -> dict[int, dict[str, float]]:
    """Print the table; return it by the number of images at once."""
    if config.smoke:
        config = Config(batches=(2,), images=4, size=64, repeats=2)
    model = jax.jit(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))()
    images = jax.random.uniform(jax.random.key(0), (config.images, config.size, config.size, 3))
    print(f"jax {jax.__version__}, {config.size} x {config.size}, milliseconds per image")
    print(f"{'batch':>5} {'grouped':>8} {'shifted':>8} {'ratio':>6} {'gradient':>9} {'/ forward':>9}")
    table = {}
    for batch in config.batches:
        forms = {"grouped": (logit, grouped), "shifted": (logit, depthwise.depthwise)}
        forms["gradient"] = (input_gradient, depthwise.depthwise)
        runs = {name: compiled(evaluate, model, images, batch, form) for name, (evaluate, form) in forms.items()}
        row = table[batch] = milliseconds(runs, config)
        ratio, cost = row["grouped"] / row["shifted"], row["gradient"] / row["shifted"]
        print(f"{batch:5d} {row['grouped']:8.2f} {row['shifted']:8.2f} {ratio:6.1f} {row['gradient']:9.2f} {cost:9.1f}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Config))

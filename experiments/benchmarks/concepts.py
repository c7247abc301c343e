"""Claim: with an affine head the importance of concepts costs milliseconds, and where they are a few backward passes.

EfficientNet-Lite0 with its ImageNet weights, cut before its last mean over positions, so that the head is affine.

(a) Importance of 20 concepts in 300 images from stored activations: in closed form, against the Sobol' indices of the
    CRAFT paper, 32 designs, so 704 evaluations of the head for each image; the sampled ones of a few images are timed.
(b) Maps of 10 concepts of one photograph by the implicit gradient through the codes, in the pixels: what one map takes,
    in units of one backward pass of the network (the gradient of a logit, its forward pass included).

Command:  python experiments/benchmarks/concepts.py [--smoke]
Hardware: 2 CPU cores.
Time:     2 minutes; --smoke one.
Expected: (a) 4.6 ms in closed form, 26 s by sampling; (b) 0.40 backward passes for each map (target 3): all come from
          one forward pass, and several are pulled back at once. jax 0.10.1, idle.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from sparks_jax import concepts, stream
from sparks_jax.concepts import fading
from sparks_jax.data import natural
from sparks_jax.models import bundled
from sparks_jax.scores import logit


@dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    images: int = 300
    sampled: int = 6  # images whose importance is sampled
    rank: int = 20
    mapped: int = 10  # concepts that have maps
    designs: int = 32
    repeats: int = 5  # the best of which counts
    smoke: bool = False


def milliseconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The best of some runs that take turns, after one that compiles."""
    seconds = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * min(times[1:]) for name, times in seconds.items()}


def timed_importance(config: Config, head: Any, acts: Any) -> dict[str, float]:
    """Milliseconds an image, in closed form and sampled."""
    few = acts.reshape(-1, acts.shape[-1])
    fitted = jax.jit(lambda a: concepts.nmf(a, config.rank, key=jax.random.key(0)).dictionary)(few)
    codes = jax.jit(concepts.encode)(fitted, acts)
    codes = jnp.tile(codes, (-(-config.images // len(codes)), 1, 1, 1))[: config.images]
    sampled = codes[: config.sampled]
    key = jax.random.key(0)
    # A method that is a function is used as it is, affine head or not.
    sobol = partial(fading.sobol, num_designs=config.designs)
    exact = jax.jit(lambda h, d, u: concepts.importance(h, d, u).values)
    masks = jax.jit(lambda h, d, u: concepts.importance(h, d, u, method=sobol, key=key).values)
    runs = {"exact": lambda: exact(head, fitted, codes), "sobol": lambda: masks(head, fitted, sampled)}
    found = milliseconds(runs, config.repeats)
    return {"exact": found["exact"], "sobol": found["sobol"] * config.images / config.sampled}


def timed_maps(config: Config, network: Any, label: int, x: Any, acts: Any) -> dict[str, float]:
    """Milliseconds of all maps of an image, and of one backward pass."""
    flat = acts.reshape(-1, acts.shape[-1])
    fitted = jax.jit(lambda a: concepts.nmf(a, config.mapped, key=jax.random.key(0)).dictionary)(flat)
    backward = jax.jit(lambda m, x: jax.grad(logit(m, label))(x))
    late = jax.jit(lambda m, d, x: concepts.gradient_maps(m.features, d, x))
    runs = {"backward": lambda: backward(network.model, x), "maps": lambda: late(network.model, fitted, x)}
    return milliseconds(runs, config.repeats)


def main(config: Config) -> dict[str, float]:
    """Print the figures; return them."""
    if config.smoke:
        config = replace(config, images=6, sampled=2, rank=4, mapped=2, designs=2, repeats=1)
    network = bundled.load("efficientnet_lite0")
    photographs = natural.photographs().values()
    xs = jnp.stack([bundled.prepare(photograph, network.size) for photograph in photographs])
    acts = jax.jit(lambda m, xs: stream.stack_over(lambda x: m.features(x[None])[0], xs, 2))(network.model, xs)
    label = network.classes.index("Egyptian cat")
    head = logit(network.model.head, label)
    found = timed_importance(config, head, acts)
    print(f"importance of {config.rank} concepts in {config.images} images, jax {jax.__version__}, ms")
    print(
        f"  closed form {found['exact']:.2f}, Sobol' {found['sobol']:.0f}: {found['sobol'] / found['exact']:.0f} times"
    )
    maps = timed_maps(config, network, label, xs[0], acts)
    each = maps["maps"] / config.mapped
    print(f"a map of one of {config.mapped} concepts of an image, ms")
    print(
        f"  implicit gradient {each:.1f}, one backward pass {maps['backward']:.1f}: ratio {each / maps['backward']:.2f}"
    )
    return found | maps | {"ratio": each / maps["backward"]}


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Claim: a step of the harmonizer costs at most 1.25 times a bare step of gradients of gradients.

The bare step has the same network, batch and double backward pass, and the sum of squares of the saliency as its loss;
the harmonizer's standardises, rescales and compares five scales. Also a step of cross-entropy alone, and what `remat`
saves and costs. The runs take turns in one process and the best of each counts; memory is what the compiler plans.

Command:  python experiments/benchmarks/harmonizer.py [--smoke] [--network resnet18] [--size 64] [--batch 16]
Hardware: 2 CPU cores.
Time:     a minute and a half, most of it compilation; --smoke half a minute, most of it compilation.
Expected: jax 0.10.1, glyphs, --size 32 --batch 32, one run: plain 49 ms, bare 320, harmonizer 335, 1.05 times the bare
          step (target 1.25). `remat` takes 342 ms and 35 MB for 28 MB: here it saves nothing. The double backward pass
          is 6.6 times a plain step through `conv2d`, whose rules are made for first derivatives; written as one matrix
          product for each convolution (`harmonize_glyphs.py`) it was 1.9 to 2.7 times, in another run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

from sparks_jax.alignment import harmonizer_loss, logits_and_saliency
from sparks_jax.models.glyphnet import glyph_net
from sparks_jax.models.resnet import resnet18, resnet50

NETWORKS: dict[str, Callable[..., Any]] = {"glyphs": glyph_net, "resnet18": resnet18, "resnet50": resnet50}


@dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    network: str = "glyphs"
    size: int = 64
    batch: int = 16
    repeats: int = 5  # the best of which counts
    smoke: bool = False


def losses(graph: Any, images: Any, labels: Any, people: Any) -> dict[str, Callable[[Any], Any]]:
    """Each step's loss, a function of the parameters."""
    has_map = jnp.arange(len(labels)) % 5 == 0

    def entropy(logits: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def plain(params: Any) -> Any:
        return entropy(nnx.merge(graph, *params)(images))

    def bare(params: Any) -> Any:
        logits, saliency = logits_and_saliency(nnx.merge(graph, *params), images, labels)
        return entropy(logits) + jnp.square(saliency).sum()

    def harmonized(params: Any, *, remat: bool = False) -> Any:
        logits, saliency = logits_and_saliency(nnx.merge(graph, *params), images, labels, remat=remat)
        return entropy(logits) + harmonizer_loss(saliency.mean(-1), people, has_map)

    return {"plain": plain, "bare": bare, "harmonizer": harmonized, "remat": partial(harmonized, remat=True)}


def main(config: Config) -> dict[str, dict[str, float]]:
    """Print the table, return it."""
    if config.smoke:
        config = replace(config, network="glyphs", size=16, batch=2, repeats=1)
    model = jax.jit(lambda: NETWORKS[config.network](num_classes=10, rngs=nnx.Rngs(0)))()
    graph, *params = nnx.split(model, nnx.Param, nnx.BatchStat)
    shape = (config.batch, config.size, config.size)
    images, people = (jax.random.uniform(jax.random.key(i), (*shape, 3)[: 4 - i]) for i in (0, 1))
    labels = jnp.arange(config.batch) % 10
    given = losses(graph, images, labels, people)
    if config.smoke:
        given = {name: given[name] for name in ("plain", "bare", "harmonizer")}
    programs = {name: jax.jit(jax.grad(loss)).lower(params).compile() for name, loss in given.items()}
    seconds = {name: [] for name in programs}
    for _ in range(config.repeats + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(params))
            seconds[name].append(time.perf_counter() - start)
    print(f"jax {jax.__version__}, {config.network}, {config.batch} images of {config.size} x {config.size}")
    print(f"{'step':12} {'ms':>8} {'/ plain':>8} {'/ bare':>8} {'memory, MB':>12}")
    best = {name: 1e3 * min(each[1:]) for name, each in seconds.items()}
    table = {}
    for name, ms in best.items():
        memory = programs[name].memory_analysis().temp_size_in_bytes / 1e6
        row = {"ms": ms, "plain": ms / best["plain"], "bare": ms / best["bare"], "memory": memory}
        table[name] = row
        print(f"{name:12} {ms:8.1f} {row['plain']:8.2f} {row['bare']:8.2f} {memory:12.1f}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Config))

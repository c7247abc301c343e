"""Claim: a sampled map costs what its evaluations of the model cost, and hardly more.

Prints, for each method, seconds / (evaluations × seconds of one bare evaluation at its best batch size), where the bare
evaluation is the model on batches of images in a compiled loop (its input gradient for the gradient methods), measured
in turns with the method in the same process. Compilation is not counted.

Command:  python experiments/benchmarks/overhead.py [--smoke] [--model squeezenet] [--chunk 4]
Hardware: 2 CPU cores.
Time:     4 minutes for the methods; a metric over 100 images, 5 minutes for every two repeats (--measured 0: none);
          --smoke half a minute.
Expected: Sobol', RISE, occlusion, integrated gradients, SmoothGrad <= 1.10 (the README has the numbers measured).
"""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import tyro

from sparks_jax import attribution
from sparks_jax.jobs import count_evaluations, measure
from sparks_jax.metrics import deletion, insertion, mu_fidelity
from sparks_jax.models import bundled
from sparks_jax.scores import logit


@dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    model: str = "efficientnet_lite0"
    size: int = 224
    chunk: int = 4  # evaluations at once inside the methods
    batches: tuple[int, ...] = (1, 4, 8, 16, 32)  # batch sizes tried for the bare evaluation
    images: int = 64  # of a bare run; the batch sizes divide it
    repeats: int = 5  # the best of which counts
    seed: int = 0
    methods: tuple[str, ...] = ()  # none: all
    measured: int = 100  # images of the run of deletion and insertion over a data set; 0: no such run
    smoke: bool = False


# Each method (and two metrics, of a map given to them) with options of a few hundred evaluations, and whether an
# evaluation is a gradient.
METHODS: list[tuple[Callable[..., Any], dict[str, Any], bool]] = [
    (attribution.sobol, dict(grid=4, num_designs=16), False),
    (attribution.sobol_signed, dict(grid=4, num_designs=16), False),
    (attribution.hsic, dict(num_points=256), False),
    (attribution.rise, dict(num_masks=256), False),
    (attribution.lime, dict(num_samples=256), False),
    (attribution.kernel_shap, dict(num_samples=256), False),
    (attribution.occlusion, dict(patch=32, stride=12), False),
    (deletion, dict(steps=255), False),
    (mu_fidelity, dict(num_samples=256), False),
    (attribution.integrated_gradients, dict(num_steps=64), True),
    (attribution.smoothgrad, dict(num_samples=64), True),
    (attribution.squaregrad, dict(num_samples=64), True),
    (attribution.vargrad, dict(num_samples=64), True),
    (attribution.guided_backprop, dict(), True),
]


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of one run, once it has compiled."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def best_in_turns(runs: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Least seconds of each, the runs taking turns so that a busy moment falls on all of them."""
    for run in runs:
        jax.block_until_ready(run())
    return np.min([[seconds(run) for run in runs] for _ in range(repeats)], axis=0).tolist()


def bare_runs(model: Any, config: Config, gradients: bool) -> dict[int, Callable[[], Any]]:
    """The model alone, or its input gradient alone, on `config.images` images in batches of each size.

    The batches go through one compiled loop, so that the call from Python, which a method pays once, counts once here.
    """
    evaluate = (lambda m, x: jax.vmap(jax.grad(logit(m, 0)))(x)) if gradients else (lambda m, x: m(x))
    loop = jax.jit(lambda m, batches: jax.lax.map(lambda x: evaluate(m, x).sum(), batches))
    x = jax.random.uniform(jax.random.key(config.seed), (config.images, config.size, config.size, 3))
    return {b: partial(loop, model, x.reshape(-1, b, *x.shape[1:])) for b in config.batches}


def over_images(metric: Callable[..., Any], model: Any, bare: dict[int, Any], config: Config) -> dict[str, float]:
    """Seconds of a metric over a data set by `sparks_jax.measure`, and of the bare model on as many images.

    Both take as long: on a machine that is shared, the least of several short times is less than that of long ones.
    """
    shape, steps = (config.measured, config.size, config.size), 32
    rng = np.random.default_rng(config.seed)
    images, maps = rng.random((*shape, 3), np.float32), rng.random(shape, np.float32)
    labels, key = np.zeros(config.measured, int), jax.random.key(config.seed)
    run = lambda: measure(metric, model, images, labels, maps, key=key, steps=steps, chunk=config.chunk)
    times = config.measured * (steps + 1) / config.images
    once = bare[min(bare, key=lambda size: abs(size - config.chunk))]
    alone = lambda: [jax.block_until_ready(once()) for _ in range(round(times))]
    whole, part = best_in_turns([run, alone], config.repeats)
    return {"whole": whole, "bare": part / round(times) * times}


def main(config: Config) -> dict[str, float]:
    """Print the table; return the ratio of each method."""
    if config.smoke:
        config = Config(config.model, 64, config.chunk, (16,), 16, 2, config.seed, config.methods, 4)
    model = bundled.load(config.model).model
    key = jax.random.key(config.seed)
    x = jax.random.uniform(key, (config.size, config.size, 3))
    print(
        f"{config.model}, {config.size}², chunk {config.chunk}, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    print(f"{'method':22}{'evaluations':>12}{'ms each':>9}{'bare ms':>9}{'batch':>6}{'ratio':>7}")
    ratios, alone = {}, {gradients: bare_runs(model, config, gradients) for gradients in (False, True)}
    for method, options, gradients in METHODS:
        if config.methods and method.__name__ not in config.methods:
            continue
        parameters = inspect.signature(method).parameters
        options = {**options} | ({"chunk": config.chunk} if "chunk" in parameters else {})
        keyed = {"key": key} if "key" in parameters else {}
        extra = (x.mean(-1),) if "heatmap" in parameters else ()
        call = partial(method, **options)
        run = jax.jit(lambda m, x, keyed, call=call, extra=extra: call(logit(m, 0), x, *extra, **keyed))
        bare = alone[gradients]
        whole, *parts = best_in_turns(
            [lambda run=run, keyed=keyed: run(model, x, keyed), *bare.values()], config.repeats
        )
        each = {size: part / config.images for size, part in zip(bare, parts, strict=True)}
        size, count = min(each, key=each.__getitem__), count_evaluations(method, x.shape, *extra, **options)
        ratios[method.__name__] = whole / count / each[size]
        times = f"{1e3 * whole / count:>9.2f}{1e3 * each[size]:>9.2f}{size:>6}"
        print(f"{method.__name__:22}{count:>12}{times}{ratios[method.__name__]:>7.2f}", flush=True)
    for metric in (deletion, insertion) if config.measured else ():
        took = over_images(metric, model, alone[False], config)
        name = f"{metric.__name__} of {config.measured} images"
        ratios[name] = took["whole"] / took["bare"]
        print(f"{name:34}{took['whole']:>9.2f} s{took['bare']:>9.2f} s{ratios[name]:>9.2f}", flush=True)
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Config))

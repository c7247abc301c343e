"""Claim: a training step of an orthogonal convolution costs little more than a plain one's; Björck starts near its end.

The layer: 128 to 128 channels, 3 x 3, circular padding, a batch of 64 images of 32 x 32, float32. The step: forward,
the gradients of the parameters and of the images, a step of gradient descent; kernels are computed from their
parameters in each. Plain and orthogonal (`OrthogonalConv`, AOC) take turns in one process, and so do orthogonium's
AdaptiveOrthoConv2d and deel-torchlip's SpectralConv2d (torch) where they can be imported, with torch's own convolution;
the best of each counts. Then, for a 512 x 512 matrix, how far from orthogonal it is after each step of Björck's
iteration, from an orthogonal start and from one that a step of training has moved by 1 % of its norm.

Command:  python -m experiments.benchmarks.lipschitz [--smoke] [--channels 128] [--batch 64] [--side 32]
          Without orthogonium and deel-torchlip, only our lines are printed.
Hardware: 2 CPU cores, idle.
Time:     one and a half minutes; --smoke a few seconds, most of them compilation.
Expected: plain 1028 ms a step, orthogonal 1147 ms: 1.12 times as long (target 1.3). Torch's convolution 1066 ms,
          orthogonium 1242 ms, deel-torchlip 1360 ms. W'W - I is 6e-7 after 3 steps of Björck's, from both starts
          (target 5). jax 0.10.1, torch 2.13, orthogonium 0.0.4, deel-torchlip 1.0.5, idle, one run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from sparks_jax import linalg
from sparks_jax.lipschitz import OrthogonalConv, reparametrize
from sparks_jax.lipschitz.layers import stock_conv

RATE = 1e-6


@dataclass(frozen=True)
class Config:
    """Sizes of one run."""

    channels: int = 128
    batch: int = 64
    side: int = 32
    matrix: int = 512  # of Björck
    rounds: int = 5  # the best of which counts
    torch: bool = True
    smoke: bool = False


def ours(layer: Any, x: np.ndarray) -> Callable[[], Any]:
    """A step of one of our layers, which goes on from the last one."""

    @partial(jax.jit, donate_argnums=0)
    def step(layer: Any, x: Any) -> Any:
        loss = lambda layer, x: jnp.square(reparametrize(layer)(x)).mean()
        slopes, back = jax.grad(loss, (0, 1))(layer, x)
        return jax.tree.map(lambda p, g: p - RATE * g, layer, slopes), back

    state, images = layer, jnp.asarray(x)

    def run() -> Any:
        nonlocal state
        state, back = step(state, images)
        return jax.block_until_ready(back)

    return run


def theirs(layer: Any, x: np.ndarray) -> Callable[[], Any]:
    """A step of a torch module, likewise."""
    import torch

    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    optimiser = torch.optim.SGD(layer.parameters(), lr=RATE)
    layer.train()

    def run() -> Any:
        optimiser.zero_grad()
        images.grad = None
        layer(images).square().mean().backward()
        optimiser.step()
        return images.grad

    return run


def torch_layers(channels: int) -> dict[str, Any]:
    """What can be imported."""
    found, shape = {}, dict(in_channels=channels, out_channels=channels, kernel_size=3)
    options = dict(padding=1, padding_mode="circular")
    try:
        from torch import nn

        found["torch, plain"] = nn.Conv2d(**shape, **options)
        from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d

        found["orthogonium, AOC"] = AdaptiveOrthoConv2d(**shape, stride=1, **options)
    except ImportError as error:
        print(f"not compared: {error}")
    try:
        from deel import torchlip

        found["torchlip, SpectralConv2d"] = torchlip.SpectralConv2d(**shape, **options)
    except ImportError as error:
        print(f"not compared: {error}")
    return found


def residuals(config: Config, moved: float, steps: int = 6) -> list[float]:
    """The largest entry of W'W - I after each number of Björck's steps, from an orthogonal start, moved or not."""
    rng, n = np.random.default_rng(0), config.matrix
    start = np.linalg.qr(rng.normal(size=(n, n)))[0]
    noise = rng.normal(size=(n, n))
    start += moved * np.linalg.norm(start) * noise / np.linalg.norm(noise)
    run, gaps = jax.jit(linalg.bjorck, static_argnames="steps"), []
    for k in range(1, steps + 1):
        w = np.asarray(run(jnp.asarray(start, jnp.float32), steps=k), np.float64)
        gaps.append(float(np.abs(w.T @ w - np.eye(n)).max()))
    return gaps


def main(config: Config) -> dict[str, Any]:
    """Print milliseconds a step and residuals; return them."""
    if config.smoke:
        config = replace(config, channels=4, batch=2, side=8, matrix=16, rounds=1, torch=False)
    c, shape = config.channels, (config.batch, config.side, config.side, config.channels)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    orthogonal = jax.jit(lambda: OrthogonalConv(c, c, size=3, rngs=nnx.Rngs(0)))()
    plain = stock_conv(jnp.asarray(orthogonal.plain().kernel[...]), jnp.zeros(c))
    runs = {"plain": ours(plain, x), "orthogonal": ours(orthogonal, x)}
    if config.torch:
        runs |= {name: theirs(layer, x) for name, layer in torch_layers(c).items()}
    for run in runs.values():
        run()  # compiles, and is not timed
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(config.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    best = {name: 1e3 * min(each) for name, each in seconds.items()}
    print(f"{c} to {c} channels, 3 x 3, batch {config.batch}, {config.side} x {config.side}")
    for name, each in best.items():
        print(f"{name:26}{each:9.1f} ms a step, {each / best['plain']:.3f} of our plain one")
    found: dict[str, Any] = {"milliseconds": best, "ratio": best["orthogonal"] / best["plain"]}
    for moved in (0.0, 0.01):
        found[f"moved by {moved:g}"] = gaps = residuals(config, moved)
        print(
            f"Björck, {config.matrix} x {config.matrix}, start moved by {moved:g}: "
            + " ".join(f"{g:.1e}" for g in gaps)
        )
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))

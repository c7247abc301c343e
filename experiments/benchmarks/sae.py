"""Claim: a training step of a TopK autoencoder is faster than in Overcomplete (torch) on the same CPU cores.

Both have the same sizes, the same starting weights, the same batch, squared error and Adam, and take turns in one
process; the best of each counts. Ours includes what Overcomplete's step leaves out or does otherwise: the input is
standardised, dead concepts are counted, atoms are of norm 1 after the step and their gradients tangent to the sphere.
Overcomplete's includes what its own loop does at every step but the logging: the norm of the gradients is clipped, and
dead concepts are counted. A first step shows that both have the same loss.

The difference is in the products: with k of m codes, all but the encoder's take k / m of the dense multiplications.

Command:  python experiments/benchmarks/sae.py [--smoke] [--batch 1024]
          Without Overcomplete (`pip install overcomplete`), only our line is printed.
Hardware: 2 CPU cores, idle.
Time:     one minute; --smoke a few seconds.
Expected: 168 ms a step against Overcomplete's 304 ms: 1.8 times as fast, with the same loss to six digits. jax 0.10.1,
          torch 2.13, Overcomplete 0.3.0, idle.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from sparks_jax.concepts import Atoms, SparseAutoencoder, TopKEncoder
from sparks_jax.concepts.sae import constrained, forward, observed
from sparks_jax.concepts.sae_losses import AUXK, auxiliary_loss, reconstruction_loss


@dataclass(frozen=True)
class Config:
    """Sizes of one run."""

    features: int = 768
    concepts: int = 4096
    k: int = 32
    batch: int = 1024
    rate: float = 5e-4
    rounds: int = 10  # the best of which counts
    smoke: bool = False


def autoencoder(config: Config) -> SparseAutoencoder:
    """The autoencoder before the first step."""
    atoms = Atoms(config.features, config.concepts, rngs=nnx.Rngs(0))
    return SparseAutoencoder(atoms, TopKEncoder(atoms(), k=config.k))


def ours(config: Config, acts: np.ndarray) -> Callable[[], float]:
    """A step of ours, which returns its squared error and goes on from the last one."""
    optimizer = optax.adam(config.rate)
    structure, params, rest = nnx.split(autoencoder(config), nnx.Param, ...)

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, acts: Any) -> Any:
        params, rest, momenta = state

        def loss(params: Any) -> Any:
            sae = nnx.merge(structure, params, rest, copy=True)
            found = forward(sae, acts)
            error = reconstruction_loss(found)
            return error + AUXK * auxiliary_loss(sae, found), (error, found)

        slope, (error, found) = jax.grad(loss, has_aux=True)(params)
        updates, momenta = optimizer.update(slope, momenta)
        sae = nnx.merge(structure, optax.apply_updates(params, updates), rest, copy=True)
        _, params, rest = nnx.split(observed(constrained(sae), found), nnx.Param, ...)
        return (params, rest, momenta), error

    state, batch = (params, rest, optimizer.init(params)), jnp.asarray(acts)

    def run() -> float:
        nonlocal state
        state, error = step(state, batch)
        jax.block_until_ready(state)
        return float(error)

    return run


def overcomplete(config: Config, acts: np.ndarray) -> Callable[[], float]:
    """A step of Overcomplete, likewise."""
    import torch
    from overcomplete.sae import TopKSAE
    from overcomplete.sae.trackers import DeadCodeTracker

    sae = TopKSAE(config.features, nb_concepts=config.concepts, top_k=config.k)
    atoms = torch.from_numpy(np.array(autoencoder(config).atoms()))
    linear = sae.encoder.final_block[0]
    with torch.no_grad():
        linear.weight.copy_(atoms)
        linear.bias.zero_()
        sae.dictionary._weights.copy_(atoms)
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.rate)
    tracker, batch = DeadCodeTracker(config.concepts, "cpu"), torch.from_numpy(acts)

    def run() -> float:
        optimizer.zero_grad()
        _, codes, reconstruction = sae(batch)
        error = (batch - reconstruction).square().mean()
        tracker.update(codes)
        error.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        return error.item()

    return run


def main(config: Config) -> dict[str, float]:
    """Print milliseconds a step; return them."""
    if config.smoke:
        config = replace(config, features=32, concepts=64, k=4, batch=16, rounds=2)
    acts = np.random.default_rng(0).standard_normal((config.batch, config.features), np.float32)
    runs = {"sparks_jax": ours(config, acts)}
    try:
        runs["overcomplete"] = overcomplete(config, acts)
    except ImportError as error:
        print(f"nothing to compare with: {error}")
    first = {name: run() for name, run in runs.items()}  # compiles, and is not timed
    seconds = {name: [] for name in runs}
    for _ in range(config.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    found = {name: 1e3 * min(each) for name, each in seconds.items()}
    print(f"{config.features} channels, {config.concepts} concepts, k = {config.k}, batch {config.batch}")
    for name, each in found.items():
        median = 1e3 * float(np.median(seconds[name]))
        print(f"{name:14}{each:8.1f} ms a step, median {median:.1f}; loss of the first {first[name]:.6f}")
    if "overcomplete" in found:
        print(f"{found['overcomplete'] / found['sparks_jax']:.2f} times as fast")
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))

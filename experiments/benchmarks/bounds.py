"""Claim: bounds cost a few evaluations of the network, and no more than those of auto_LiRPA.

Prints for each network the milliseconds of one bare forward, and of bounds in forwards: interval propagation (IBP), a
map of EVA with a 7 x 7 grid (in units of 50 forwards, evaluated as many at once), the margins of ten classes by CROWN
IBP (10 rows), and CROWN-IBP on both sides (20 rows); with the seconds of compilation and the temporary memory of the
compiled program. Then full CROWN on a residual network with 17 rectifiers. If `auto_LiRPA` can be imported (it is no
dependency: put its source on PYTHONPATH), it bounds the same networks with the same weights in the same process on as
many threads, and the largest difference of the bounds, relative to their size, is printed. Everything is the best of
several runs that take turns.

Command:  python -m experiments.benchmarks.bounds [--smoke] [--nets mlp cnn …]
Hardware: 2 CPU cores.
Time:     3 minutes, and one more with auto_LiRPA; --smoke half a minute.
Expected: the table of the README. Targets: IBP <= 3 (missed by three dense layers, 2.4 to 3.7, and EfficientNet-Lite0,
          3.7), EVA <= 3 (1.5 to 1.9), margins <= 10 (2.6 to 9.7; missed by ResNet-18 at 64 x 64, 18.6), full CROWN
          compiled in less than 60 s (13 s). auto_LiRPA 0.7.1 takes 2.6 to 4.3 times as long for IBP, 1.5 to 3.8 for
          CROWN-IBP of mlp, cnn and residual, with bounds within 5e-7. jax 0.10.1, idle.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from experiments.benchmarks.resnet50_forward import random_state, torch_logits
from sparks_jax.models import EfficientNetLite0
from sparks_jax.models.conv2d import conv2d
from sparks_jax.models.weights import resnet_from_state_dict
from sparks_jax.verify import ball, crown, eva, ibp, margins

NETS = ("mlp", "cnn", "residual", "resnet18_32", "resnet18_64", "lite0_224")


@dataclass(frozen=True)
class Config:
    """What is bounded, and how often."""

    nets: tuple[str, ...] = NETS
    radius: float = 1e-3
    chunk: int = 16  # cells of EVA, and forwards, at once
    repeats: int = 5  # the best of which counts
    full: bool = True  # whether full CROWN is compiled
    seed: int = 0
    smoke: bool = False


class Net(NamedTuple):
    """A network of one example, its weights, and the same in torch.

    Attributes:
        apply: From weights and one example `(h w c)` or `(d)` to logits.
        weights: A pytree.
        shape: Of one example.
        in_torch: From torch, its functions, and tensors of the weights and of a batch `(b c h w)`, to logits.
        rows: Whether CROWN-IBP is timed.
    """

    apply: Callable[..., Any]
    weights: Any
    shape: tuple[int, ...]
    in_torch: Callable[..., Any] | None
    rows: bool = True


# Layers: a number of features is a dense layer, three numbers (features, size, stride) are a convolution, a list is a
# residual block.
MLP = (256, "relu", 256, "relu", 256, "relu", 10)
CNN = ((32, 3, 1), "relu", (32, 4, 2), "relu", (64, 3, 1), "relu", (64, 4, 2), "relu", "flatten", 256, "relu", 10)


def residual(width: int) -> tuple[Any, ...]:
    """A ResNet-18 for small images: 17 rectifiers."""
    layers: list[Any] = [(width, 3, 1), "relu"]
    for stage in range(4):
        for stride in ((1 if stage == 0 else 2), 1):
            layers += [[(width * 2**stage, 3, stride), "relu", (width * 2**stage, 3, 1)], "relu"]
    return (*layers, "mean", 10)


class _InJax:
    """Layers on one image `(1 h w c)`."""

    relu = staticmethod(jax.nn.relu)

    @staticmethod
    def conv(x: Any, kernel: Any, stride: int) -> Any:
        p = (len(kernel) - 1) // 2
        return conv2d(x, kernel, stride, ((p, p), (p, p)))

    @staticmethod
    def dense(x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight + bias[None]

    @staticmethod
    def flatten(x: Any) -> Any:
        return x.reshape(len(x), -1)

    @staticmethod
    def mean(x: Any) -> Any:
        return x.mean((1, 2))


def _in_torch(torch: Any) -> Any:
    """The same layers on `(b c h w)`."""
    F = torch.nn.functional

    class Layers:
        relu = staticmethod(F.relu)
        dense = staticmethod(lambda x, weight, bias: F.linear(x, weight.T, bias))
        mean = staticmethod(lambda x: x.mean((2, 3)))
        # The weights behind it expect channels last.
        flatten = staticmethod(lambda x: x.permute(0, 2, 3, 1).flatten(1))

        @staticmethod
        def conv(x: Any, kernel: Any, stride: int) -> Any:
            return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride, padding=(len(kernel) - 1) // 2)

    return Layers


def evaluate(layers: Any, weights: list, x: Any, how: Any) -> Any:
    """Logits of a network from its list of layers and the list of its weights, which is emptied."""
    for layer in layers:
        if isinstance(layer, str):
            x = getattr(how, layer)(x)
        elif isinstance(layer, int):
            x = how.dense(x, weights.pop(0), weights.pop(0))
        elif isinstance(layer, tuple):
            x = how.conv(x, weights.pop(0), layer[2])
        else:
            y = evaluate(layer, weights, x, how)
            x = (x if x.shape == y.shape else how.conv(x, weights.pop(0), layer[0][2])) + y
    return x


def draw(layers: Any, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Random weights that keep the variance, and the shape of the output."""
    weights: list[np.ndarray] = []

    def normal(*sizes: int) -> None:
        weights.append((rng.standard_normal(sizes) * (2 / np.prod(sizes[:-1])) ** 0.5).astype(np.float32))

    for layer in layers:
        if isinstance(layer, int):
            normal(shape[-1], layer)
            weights.append(np.full(layer, 0.1, np.float32))
            shape = (layer,)
        elif isinstance(layer, tuple):
            features, size, stride = layer
            normal(size, size, shape[-1], features)
            shape = (*((n + (size - 1) // 2 * 2 - size) // stride + 1 for n in shape[:2]), features)
        elif isinstance(layer, list):
            inside, after = draw(layer, shape, rng)
            weights += inside
            if after != shape:
                normal(1, 1, shape[-1], after[-1])
            shape = after
        elif layer in ("flatten", "mean"):
            shape = (int(np.prod(shape)),) if layer == "flatten" else shape[-1:]
    return weights, shape


def make(name: str, seed: int) -> Net:
    """A network by its name."""
    rng = np.random.default_rng(seed)
    if name.startswith(("resnet18_", "lite0_")):
        kind, size = name.split("_")
        shape = (int(size), int(size), 3)
        state = random_state(18, num_classes=10, seed=seed) if kind == "resnet18" else None
        model = resnet_from_state_dict(state) if state else EfficientNetLite0(rngs=nnx.Rngs(seed))
        graphdef, weights = nnx.split(model)
        apply = lambda w, x: nnx.merge(graphdef, w)(x[None])[0]
        in_torch = lambda torch, state, x: torch_logits(state, x)
        return Net(apply, (weights, state), shape, in_torch if state else None, state is not None)
    layers = {"mlp": MLP, "cnn": CNN, "residual": residual(16), "narrow": residual(2)}[name]
    shape = {"mlp": (784,), "narrow": (8, 8, 3)}.get(name, (32, 32, 3))
    weights, _ = draw(layers, shape, rng)
    apply = lambda w, x: evaluate(layers, list(w), x[None], _InJax)[0]
    in_torch = lambda torch, w, x: evaluate(layers, list(w), x, _in_torch(torch))
    return Net(apply, (weights, weights), shape, in_torch)


class Compiled(NamedTuple):
    """A program, its arguments, and what it took to compile it."""

    program: Any
    arguments: tuple[Any, ...]
    seconds: float
    megabytes: float

    def __call__(self) -> Any:
        """Run it to the end."""
        return jax.block_until_ready(self.program(*self.arguments))


def compiled(fn: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compile a function for its arguments."""
    start = time.perf_counter()
    program = jax.jit(fn).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return Compiled(program, arguments, seconds, 0.0 if memory is None else memory.temp_size_in_bytes / 2**20)


def best_in_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Least milliseconds of each, the runs taking turns so that a busy moment falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if k > 0:  # the first round may still allocate
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(each) for name, each in seconds.items()}


def our_runs(net: Net, x: np.ndarray, config: Config) -> dict[str, Compiled]:
    """What is timed of ours: forwards, and bounds."""
    box = lambda x: ball(x, config.radius)
    weights = jax.tree.map(jnp.asarray, net.weights[0])
    runs = {
        "forward": compiled(net.apply, weights, x),
        "ibp": compiled(lambda w, x: ibp(partial(net.apply, w), box(x)), weights, x),
    }
    if len(net.shape) == 3 and net.rows:
        count = 50 // (-(-50 // config.chunk))  # as many as in a chunk of cells
        noise = np.random.default_rng(1).standard_normal((-(-50 // count), count, *net.shape)).astype(np.float32)
        forwards = lambda w, xs: jax.lax.map(jax.vmap(partial(net.apply, w)), xs)
        runs["50 forwards"] = compiled(forwards, weights, jnp.asarray(noise))
        explain = lambda w, x: eva(partial(net.apply, w), x, 0, radius=config.radius, chunk=config.chunk)
        runs["eva"] = compiled(explain, weights, x)
    if net.rows:
        runs["margins"] = compiled(lambda w, x: margins(partial(net.apply, w), box(x), 0, bound=crown), weights, x)
        runs["crown"] = compiled(lambda w, x: crown(partial(net.apply, w), box(x)), weights, x)
    return runs


def their_runs(net: Net, x: np.ndarray, config: Config) -> dict[str, Callable[[], Any]]:
    """The same by auto_LiRPA, where it can be imported and bounds the network at all."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tensors, in_torch = jax.tree.map(torch.tensor, net.weights[1]), net.in_torch
    assert in_torch is not None

    class Module(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return in_torch(torch, tensors, x)

    batch = torch.tensor(x)[None]
    batch = batch.permute(0, 3, 1, 2).contiguous() if batch.ndim == 4 else batch
    norm = PerturbationLpNorm(norm=np.inf, x_L=batch - config.radius, x_U=batch + config.radius)
    runs = {}
    for name, method in (("ibp", "IBP"), ("crown", "CROWN-IBP")):
        if name == "crown" and not net.rows:
            continue
        try:
            module = BoundedModule(Module(), torch.empty_like(batch))
            around = BoundedTensor(batch, norm)

            def run(module: Any = module, around: Any = around, method: str = method) -> Any:
                with torch.no_grad():
                    return [v.numpy()[0] for v in module.compute_bounds(x=(around,), method=method)]

            run()
            runs[name] = run
        except Exception as error:  # what it does not support it says in many ways
            print(f"  auto_LiRPA, {method}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    return runs


def main(config: Config) -> dict[str, dict[str, float]]:
    """Print the table; return the figures of each network."""
    if config.smoke:
        config = replace(config, nets=("mlp",), repeats=2, full=False)
    print(f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, jax {jax.__version__}")
    try:
        import auto_LiRPA

        print(f"auto_LiRPA {auto_LiRPA.__version__}")
        theirs = True
    except ImportError:
        print("auto_LiRPA cannot be imported: nothing to compare with")
        theirs = False
    table = {}
    for name in config.nets:
        net = make(name, config.seed)
        x = np.random.default_rng(config.seed).random(net.shape, np.float32)
        ours = our_runs(net, x, config)
        others = their_runs(net, x, config) if theirs and net.in_torch else {}
        times = best_in_turns(ours | {f"their {k}": run for k, run in others.items()}, config.repeats)
        table[name] = report(name, ours, others, times)
    if config.full:
        table["full"] = full_crown(config)
    return table


def report(name: str, ours: dict, others: dict, times: dict[str, float]) -> dict[str, float]:
    """Print the lines of one network."""
    print(f"{name}: forward {times['forward']:.2f} ms")
    row = {}
    for kind in ("ibp", "eva", "margins", "crown"):
        if kind not in ours:
            continue
        row[kind] = times[kind] / times["50 forwards" if kind == "eva" else "forward"]
        line = f"  {kind:8}{times[kind]:9.2f} ms ={row[kind]:6.2f} {'x 50 ' if kind == 'eva' else ''}forwards"
        line += f", compiled in {ours[kind].seconds:.1f} s, {ours[kind].megabytes:.1f} MB"
        if kind in others:
            row[f"their {kind}"] = times[f"their {kind}"] / times[kind]
            got, expected = np.asarray(ours[kind]()), np.asarray(others[kind]())
            apart = float(np.abs(got - expected).max() / np.abs(expected).max())
            row[f"apart {kind}"] = apart
            line += (
                f"; auto_LiRPA {times[f'their {kind}']:.2f} ms = {row[f'their {kind}']:.2f} x ours, {apart:.0e} apart"
            )
        print(line, flush=True)
    return row


def full_crown(config: Config) -> dict[str, float]:
    """Compile and run CROWN with bounds of all activations by CROWN, on 17 rectifiers."""
    net = make("narrow", config.seed)
    x = np.random.default_rng(config.seed).random(net.shape, np.float32)
    bound = partial(crown, intermediate="crown")
    run = compiled(lambda w, x: bound(partial(net.apply, w), ball(x, config.radius)), net.weights[0], x)
    milliseconds = best_in_turns({"full": run}, config.repeats)["full"]
    print(f"full CROWN, 17 rectifiers: compiled in {run.seconds:.1f} s, {run.megabytes:.1f} MB, {milliseconds:.0f} ms")
    return {"compile": run.seconds, "milliseconds": milliseconds}


if __name__ == "__main__":
    main(tyro.cli(Config))

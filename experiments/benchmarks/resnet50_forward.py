"""A ResNet-50 forward in sparks_jax is within 10 % of torch channels_last on the same CPU cores, or faster.

Command:  python experiments/benchmarks/resnet50_forward.py [--smoke] [--batch 8]
Hardware: 2 CPU cores with AVX-512, idle. Without torch only our line is printed.
Run time: 30 s (`--smoke`: 10 s).
Expected: 35 to 38 images/s against torch's 38, a ratio of 0.93 to 1.00. A busy machine slows torch more than XLA
          (ratios of 1.5 to 3); at batch 1 the ratio is 0.85.
"""

import argparse
import os
import statistics
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sparks_jax.models.resnet import ResNet
from sparks_jax.models.weights import resnet_from_state_dict, torch_layout


@dataclass(frozen=True)
class Config:
    """Sizes of one run."""

    depth: int = 50
    size: int = 224
    batch: int = 8
    rounds: int = 10


SMOKE = Config(depth=18, size=64, batch=2, rounds=3)


def main():
    """Parse, give both networks the same weights, time them in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--batch", type=int, default=Config.batch)
    options = parser.parse_args()
    config = SMOKE if options.smoke else Config(batch=options.batch)

    state = random_state(config.depth)
    shape = (config.batch, config.size, config.size, 3)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    runs = {"sparks_jax": jax_forward(resnet_from_state_dict(state), images)}
    try:
        runs["torch channels_last"] = torch_forward(state, images)
    except ImportError:
        print("torch is not installed: nothing to compare with")
    report(timed(runs, config.rounds), config)


def report(seconds, config):
    """Print images per second and, of two runs, the ratio of their best rounds."""
    for name, each in seconds.items():
        best, median = (config.batch / pick(each) for pick in (min, statistics.median))
        print(f"{name:19s} ResNet-{config.depth}, {config.size}², batch {config.batch}: ", end="")
        print(f"{best:5.1f} images/s in the best of {len(each)} rounds, {median:5.1f} in the median")
    if len(seconds) == 2:
        ours, theirs = (min(each) for each in seconds.values())
        print(f"sparks_jax / torch: {theirs / ours:.2f}")


def timed(runs, rounds):
    """Seconds of each run in each round; the runs take turns, so that a busy machine disturbs all alike."""
    seconds = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if index > 0:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
    return seconds


def jax_forward(model, images):
    """A call without arguments that computes the logits by sparks_jax."""
    forward, images = jax.jit(lambda model, images: model(images)), jnp.asarray(images)
    return lambda: np.asarray(forward(model, images))


def torch_forward(state, images):
    """A call without arguments that computes the logits by torch, channels_last, on all cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC memory seen as NCHW: channels_last
    state = {key: torch.from_numpy(value) for key, value in state.items()}
    kernels = {key: value for key, value in state.items() if value.ndim == 4}
    state |= {key: value.contiguous(memory_format=torch.channels_last) for key, value in kernels.items()}

    def run():
        with torch.inference_mode():
            return torch_logits(state, images).numpy()

    return run


def random_state(depth, num_classes=1000, seed=0):
    """A torchvision state dict of a ResNet with random weights and statistics, in numpy."""
    rng = np.random.default_rng(seed)
    model = jax.eval_shape(lambda: ResNet(depth, num_classes, rngs=nnx.Rngs(0)))
    state = {}
    for key, shape in torch_layout(model).values():
        if len(shape) > 1:
            state[key] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif key.endswith(("weight", "running_var")):
            state[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            state[key] = rng.normal(0, 0.1, shape).astype(np.float32)
    return state


def torch_logits(state, images):
    """A ResNet of any depth, from its state dict, on images (b c h w), in plain torch functions."""
    from torch.nn import functional as F

    def conv(x, name, norm, stride=1):
        kernel = state[f"{name}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, scale, bias = (state[f"{norm}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, bias)

    def block(x, name, stride):
        bottleneck = f"{name}.conv3.weight" in state
        y = conv(x, f"{name}.conv1", f"{name}.bn1", 1 if bottleneck else stride).relu_()
        y = conv(y, f"{name}.conv2", f"{name}.bn2", stride if bottleneck else 1)
        if bottleneck:
            y = conv(y.relu_(), f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return y.add_(x).relu_()

    x = F.max_pool2d(conv(images, "conv1", "bn1", 2).relu_(), 3, 2, 1)
    for stage in (1, 2, 3, 4):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in state:
            x = block(x, f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1)
            index += 1
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


if __name__ == "__main__":
    main()

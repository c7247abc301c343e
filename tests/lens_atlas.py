"""A small network and coloured images, whose atlas takes seconds; run as a program, it builds it, and can be killed.

As `FOLDER`, alone; as `FOLDER ADDRESS COUNT INDEX`, one of the processes that share the build.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sparks_jax.jobs.network import Network
from sparks_jax.jobs.pictures import square
from sparks_jax.lens.sources import Source

CLASSES = ("red", "green", "blue", "grey")
SIDE, NUM = 16, 48
SETTINGS = dict(
    rank=3, view="positions", most=12, least=4, rivals=3, steps=8, pictures=1, picture_steps=2, picture_crops=1,
    parts=1, part_rank=2, part_images=4, exhibits=2, crops=2, plane_steps=20, at_once=2, chunk=8,
)  # fmt: skip


class Colours(nnx.Module):
    """Means of colours over blocks of 4 pixels, and of 2 a stage before; the logits of a class are sums of these."""

    def __init__(self):
        self.weights = nnx.Param(jnp.concatenate([4 * jnp.eye(3), jnp.full((1, 3), 1.6)]).T)

    def features(self, images, stage=2):
        side = 2**stage
        b, h, w, c = images.shape
        return images.reshape(b, h // side, side, w // side, side, c).mean((2, 4))

    def head(self, acts, stage=2):
        return acts.mean((1, 2)) @ self.weights[...]

    def __call__(self, images):
        return self.head(self.features(images))


def network():
    return Network("Colours", Colours(), CLASSES, SIDE, square, "Made by hand.")


def source(num=NUM):
    """Images whose left or right half has the colour of their class, of which every fifth is told wrongly."""
    rng = np.random.default_rng(0)
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [170, 170, 170]])
    shown = np.arange(num) % 4
    images = rng.integers(0, 40, (num, SIDE, SIDE, 3)).astype(np.uint8)
    for i, label in enumerate(shown):
        half = slice(0, SIDE // 2) if i % 8 < 4 else slice(SIDE // 2, SIDE)
        images[i, :, half] = colours[label] + rng.integers(-20, 20, (SIDE, SIDE // 2, 3))
    labels = np.where(np.arange(num) % 5 == 4, (shown + 1) % 4, shown).astype(np.int32)
    left = np.zeros((SIDE, SIDE), np.float32)
    left[:, : SIDE // 2] = 1
    known = lambda i: {"left": left}
    return Source("colours", "Halves.", labels, [f"image {i}" for i in range(num)], lambda i: images[i], "1", known)


def build(folder, **options):
    from sparks_jax import lens

    return lens.build(folder, model=network(), data=source(), name="colours", **{"quiet": True, **SETTINGS, **options})


if __name__ == "__main__":
    if len(sys.argv) > 2:
        jax.distributed.initialize(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    build(Path(sys.argv[1]), devices=jax.local_devices()[:1])

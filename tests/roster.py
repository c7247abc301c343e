"""THE list of methods. A method joins with one line here; `test_laws.py` then holds it to every law.

`options` make it cheap on an 8 × 8 image; `linear(w, x)` is its map of the score `sum(w * x)`, known in closed form, to
within `atol` (the statistical error where the method samples); `complete`: the map sums to f(x) - f(0);
`samples`: the option that says how many samples are drawn, at least `fewest`;
`per_sample`: how many evaluations each costs; `network`: what the method is asked about; `reads_label`: its map depends
on the class. A method that is given logits is asked about the second of two classes whose logits are 0 and the score.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparks_jax import attribution, designs, images, sensitivity, verify
from tests.tiny import TinyNet, TinyReluNet


class Method(NamedTuple):
    name: str
    fn: Callable[..., Any]
    # "score": fn(f, x, …); "halves": fn(features, head, x, …); "logits": fn(f, x, label, …);
    # "halves and logits": fn(features, head, x, label, …)
    family: str
    needs_key: bool
    options: dict[str, Any]
    linear: Callable[[Any, Any], Any]
    atol: float = 1e-6
    samples: str | None = None
    complete: bool = False
    fewest: int = 8
    per_sample: int = 1
    network: Callable[[int], Any] = TinyNet
    reads_label: bool = True

    @property
    def compares(self) -> bool:
        """Whether it is given logits and the label."""
        return "logits" in self.family


def _patches(w, x):
    """Contribution of each 4 × 4 patch of an 8 × 8 image."""
    cells = (w * x).sum(-1).reshape(2, 4, 2, 4).sum((1, 3))
    return np.kron(cells, np.ones((4, 4)))


def _shares(w, x):
    """Share of each of the 4 × 4 cells of an 8 × 8 image in the variance of a linear score of uniform masks."""
    cells = (w * x).sum(-1).reshape(4, 2, 4, 2).sum((1, 3))
    return np.kron(cells**2 / (cells**2).sum(), np.ones((2, 2)))


def _cells(w, x):
    """Contribution of each of the 4 × 4 cells of an 8 × 8 image."""
    return np.kron((w * x).sum(-1).reshape(4, 2, 4, 2).sum((1, 3)), np.ones((2, 2)))


def _moved(w, x):
    """How much a move of 1/4 of every pixel of each of the 2 × 2 cells of an 8 × 8 image can change a linear score."""
    return np.kron(abs(w).sum(-1).reshape(2, 4, 2, 4).sum((1, 3)) / 4, np.ones((4, 4)))


def _reached(w, x):
    """How much shorter the longest move by 1/4 gets when one of 2 × 2 cells is fixed, times the norm of the weights."""
    return np.full(x.shape[:2], (x.size**0.5 - (3 / 4 * x.size) ** 0.5) / 4 * np.linalg.norm(w))


def _constant(w, x):
    """What every mask at keep = 1 shows: the whole image."""
    return jnp.full(x.shape[:2], (w * x).sum())


def _pooled(a, weights):
    return np.maximum(0, np.einsum("hwc,c->hw", a, weights))


def _standing_out(a, kappa):
    """Mean of the channels that are kappa standard deviations above it, at each position."""
    mean, std = a.mean((0, 1)), a.std((0, 1))
    return ((a >= mean + kappa * std) * mean).sum(-1)


METHODS = [
    Method("gradient", attribution.gradient, "score", False, {}, lambda w, x: w),
    Method("saliency", attribution.saliency, "score", False, {}, lambda w, x: abs(w)),
    Method("gradient_input", attribution.gradient_input, "score", False, {}, lambda w, x: w * x),
    Method(
        "integrated_gradients", attribution.integrated_gradients, "score", False, dict(num_steps=8),
        lambda w, x: w * x, samples="num_steps", complete=True,
    ),
    Method(
        "smoothgrad", attribution.smoothgrad, "score", True, dict(num_samples=8), lambda w, x: w, samples="num_samples"
    ),
    Method(
        "squaregrad", attribution.squaregrad, "score", True, dict(num_samples=8), lambda w, x: w**2, 1e-5, "num_samples"
    ),
    Method(
        "vargrad", attribution.vargrad, "score", True, dict(num_samples=8), lambda w, x: 0 * w, samples="num_samples"
    ),
    Method("occlusion", attribution.occlusion, "score", False, dict(patch=4, stride=4), _patches, 1e-5),
    Method(
        "rise", attribution.rise, "score", True, dict(num_masks=32, grid=4), _constant, 1e-4, "num_masks"
    ),
    # 512 rows: the standard error of a share of a linear score is below 2 S / sqrt(512) < 0.09 S, and S < 0.4.
    Method(
        "sobol", attribution.sobol, "score", True, dict(grid=4, num_designs=8, resize=images.nearest), _shares, 0.036,
        "num_designs", per_sample=18,
    ),
    # 4096 rows: sqrt(2 S / 4096) < 0.015 for S < 0.4. Independent points compile in a third of the time.
    Method(
        "sobol_first", attribution.sobol_first, "score", True,
        dict(grid=4, num_designs=8, design=designs.monte_carlo, resize=images.nearest), _shares, 0.045, "num_designs",
        per_sample=18,
    ),
    Method(
        "sobol_signed", attribution.sobol_signed, "score", True,
        dict(grid=4, num_designs=8, design=designs.monte_carlo, resize=images.nearest),
        lambda w, x: np.sign(_cells(w, x)) * _shares(w, x), 0.036, "num_designs", per_sample=18,
    ),
    # 4096 rows: 2 sqrt(S S' / 4096) < 0.013, and as much on the diagonal.
    Method(
        "sobol_pairs", attribution.sobol_pairs, "score", True, dict(grid=4, num_designs=8, design=designs.monte_carlo),
        lambda w, x: np.diag(_shares(w, x)[::2, ::2].ravel()), 0.039, "num_designs", per_sample=34,
    ),
    # Exact but for rounding: 64 rows of an orthogonal array.
    Method(
        "hsic", attribution.hsic, "score", True,
        dict(grid=4, num_points=16, design=designs.monte_carlo, resize=images.nearest),
        lambda w, x: _cells(w, x) ** 2 / 8, 1e-5, "num_points",
    ),
    Method(
        "hsic_pairs", attribution.hsic_pairs, "score", True, dict(grid=4, num_points=16),
        lambda w, x: np.diag(_cells(w, x)[::2, ::2].ravel() ** 2 / 8), 1e-5, "num_points",
    ),
    # Scores below 16, right to 2⁻²¹: 8e-6. A ridge of 0 is raised to rounding, 16 · 2⁻²³ of values below 8: 1.5e-5.
    Method("lime", attribution.lime, "score", True, dict(grid=4, num_samples=64), _cells, 3e-5, "num_samples"),
    Method(
        "kernel_shap", attribution.kernel_shap, "score", True, dict(grid=4, num_samples=64), _cells, 3e-5,
        "num_samples", fewest=48,
    ),
    Method("guided_backprop", attribution.guided_backprop, "score", False, {}, lambda w, x: w, network=TinyReluNet),
    Method("deconvnet", attribution.deconvnet, "score", False, {}, lambda w, x: w, network=TinyReluNet),
    Method("grad_cam", attribution.grad_cam, "halves", False, {}, lambda w, x: _pooled(x, w.mean((0, 1)))),
    Method(
        "grad_cam_pp", attribution.grad_cam_pp, "halves", False, {},
        lambda w, x: _pooled(x, (np.maximum(0, w) / (2 + np.maximum(0, w) * x.sum((0, 1)))).sum((0, 1))),
        network=TinyReluNet,
    ),
    Method(
        "fem", attribution.fem, "halves", False, dict(kappa=1.0), lambda w, x: _standing_out(x, 1.0),
        network=TinyReluNet, reads_label=False,
    ),
    # Sums of 192 terms below 4 / 4: 192 · 2⁻²³.
    Method("eva", verify.eva, "logits", False, dict(radius=0.25, grid=2), _moved, 3e-5, network=TinyReluNet),
    # Of the head, whose activations are the pixels: the corners make the box exact.
    Method(
        "eva_hybrid", verify.eva_hybrid, "halves and logits", True, dict(radius=0.25, grid=2, num_samples=4), _moved,
        3e-5, "num_samples", fewest=4, per_sample=6,
    ),
    Method(
        "lipschitz_eva", verify.lipschitz_eva, "halves and logits", False, dict(radius=0.25, grid=2), _reached, 3e-4,
        network=TinyReluNet,
    ),
]  # fmt: skip

# Options under which the linear closed form holds.
LINEAR_OPTIONS = {
    "rise": dict(keep=1.0),
    "sobol": dict(num_designs=512),
    "sobol_first": dict(num_designs=4096),
    "sobol_signed": dict(num_designs=512),
    "sobol_pairs": dict(num_designs=4096),
    "hsic": dict(num_points=64, kernel=sensitivity.linear_kernel, design=designs.sobol),
    "hsic_pairs": dict(num_points=64, kernel=sensitivity.linear_kernel, design=designs.sobol),
    "lime": dict(ridge=0.0),
}


def call(method: Method, about: tuple[Any, ...], x: Any, key: Any, label: Any, **more: Any) -> Any:
    """The map of one image, whatever the family."""
    options = {**method.options, **more} | ({"key": key} if method.needs_key else {})
    return partial(method.fn, **options)(*about, x, *([label] if method.compares else []))

"""What the command line runs: attribution methods by name, and what their pictures mean in plain words."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparks_jax import attribution, images, verify
from sparks_jax.jobs.explain import ScoreMaker
from sparks_jax.scores import logit, probability


class Method(NamedTuple):
    """A method as the command line shows it.

    Attributes:
        call: The attribution method.
        title: Its name in prose.
        means: What a bright pixel means, in one sentence.
        cost: Evaluations of the model for one image of 224 × 224 at the default options.
        gradients: Whether each evaluation is a forward and a backward pass.
        halves: Whether it asks the network for its halves, `features` and `head`.
        signed: What red and blue mean, for a map with a sign.
        channels: How `images.heatmap` reduces the channels of the map to an importance.
        score: What is explained.
        smoke: Options of a quick, rough run.
        radius: How far each pixel may move, for maps that rest on bounds: they are refused where these are vacuous.
    """

    call: Callable[..., Any]
    title: str
    means: str
    cost: int
    gradients: bool = False
    halves: bool = False
    signed: str = ""
    channels: Literal["l2", "max", "sum"] = "l2"
    score: ScoreMaker = logit
    smoke: dict[str, Any] = {}
    radius: float | None = None


# Pixels are in [0, 1]. The least change that a picture of 8 bits can show, for bounds, which grow with the radius
# through every layer; and the usual one of attacks on ImageNet, for samples, which do not.
ONE_LEVEL, EIGHT_LEVELS = 1 / 255, 8 / 255


# The dictionary is read, never written: a method that is not here is one call of `sparks_jax.explain` away.
METHODS = {
    "sobol": Method(
        attribution.sobol,
        "Sobol’",
        "Hides parts of the picture in many combinations; bright regions make the score vary most, "
        "alone or together with others.",
        cost=2112,
        smoke=dict(grid=4, num_designs=8),
    ),
    "integrated_gradients": Method(
        attribution.integrated_gradients,
        "Integrated gradients",
        "Fades the picture in from black and adds up what each pixel contributes on the way; "
        "the contributions sum to the change of the score.",
        cost=32,
        gradients=True,
        signed="red pixels speak for the class, blue ones against it",
        smoke=dict(num_steps=8),
    ),
    "smoothgrad": Method(
        attribution.smoothgrad,
        "SmoothGrad",
        "How strongly a small change of each pixel would change the score, averaged over noisy copies of the picture.",
        cost=64,
        gradients=True,
        signed="the score rises where a red pixel brightens, falls where a blue one does",
        smoke=dict(num_samples=8),
    ),
    "grad_cam": Method(
        attribution.grad_cam,
        "Grad-CAM",
        "Which places of the network’s last feature grid support the class; as coarse as that grid.",
        cost=1,
        gradients=True,
        halves=True,
    ),
    "rise": Method(
        attribution.rise,
        "RISE",
        "Shows the picture through random masks; bright pixels were visible when the probability was high.",
        cost=4000,
        score=probability,
        smoke=dict(num_masks=64),
    ),
    "sobol_signed": Method(
        attribution.sobol_signed,
        "Signed Sobol’",
        "As Sobol’, and whether showing the region raises the score or lowers it.",
        cost=2112,
        signed="showing red regions raises the score, showing blue ones lowers it",
        smoke=dict(grid=4, num_designs=8),
    ),
    "sobol_first": Method(
        attribution.sobol_first,
        "First-order Sobol’",
        "As Sobol’, but only what each region does alone.",
        cost=2112,
        smoke=dict(grid=4, num_designs=8),
    ),
    "hsic": Method(
        attribution.hsic,
        "HSIC",
        "Hides regions in random combinations; bright regions are those on whose presence the score depends.",
        cost=512,
        smoke=dict(grid=4, num_points=64),
    ),
    "kernel_shap": Method(
        attribution.kernel_shap,
        "KernelSHAP",
        "What each region adds to the score, averaged over the orders in which regions could appear; "
        "the contributions sum to the change of the score.",
        cost=2048,
        signed="red regions speak for the class, blue ones against it",
        smoke=dict(grid=4, num_samples=64),
    ),
    "lime": Method(
        attribution.lime,
        "LIME",
        "The coefficient of each region in a linear model of the score near the picture.",
        cost=1000,
        signed="red regions speak for the class, blue ones against it",
        smoke=dict(grid=4, num_samples=64),
    ),
    "occlusion": Method(
        attribution.occlusion,
        "Occlusion",
        "How much the score drops when a black patch covers the place.",
        cost=170,
        signed="covering red places lowers the score, covering blue ones raises it",
        smoke=dict(patch=64, stride=40),
    ),
    "saliency": Method(
        attribution.saliency,
        "Saliency",
        "How strongly the score reacts to a small change of each pixel.",
        cost=1,
        gradients=True,
        channels="max",
    ),
    "gradient_input": Method(
        attribution.gradient_input,
        "Gradient × input",
        "The score’s reaction to each pixel times the pixel itself: a first-order account of the score.",
        cost=1,
        gradients=True,
        signed="red pixels speak for the class, blue ones against it",
    ),
    "squaregrad": Method(
        attribution.squaregrad,
        "SquareGrad",
        "The squared reaction to each pixel, averaged over noisy copies of the picture.",
        cost=64,
        gradients=True,
        channels="sum",
        smoke=dict(num_samples=8),
    ),
    "vargrad": Method(
        attribution.vargrad,
        "VarGrad",
        "How much the reaction to each pixel differs between noisy copies of the picture.",
        cost=64,
        gradients=True,
        channels="sum",
        smoke=dict(num_samples=8),
    ),
    "guided_backprop": Method(
        attribution.guided_backprop,
        "Guided backpropagation",
        "The gradient, with everything that would lower the score cut off at each ReLU: sharp edges, "
        "which depend little on the class.",
        cost=1,
        gradients=True,
    ),
    "deconvnet": Method(
        attribution.deconvnet,
        "Deconvnet",
        "As guided backpropagation, but through ReLUs that were off as well.",
        cost=1,
        gradients=True,
    ),
    "grad_cam_pp": Method(
        attribution.grad_cam_pp,
        "Grad-CAM++",
        "As Grad-CAM, with positions that support the class weighted up, so that several objects show.",
        cost=1,
        gradients=True,
        halves=True,
    ),
    "fem": Method(
        attribution.fem,
        "FEM",
        "Where the network’s last feature grid is unusually active, whatever the class.",
        cost=1,
        halves=True,
    ),
}
# Those that ask for a radius, and mostly for a network that was made for bounds: known by name, but no part of "all".
BOUNDING = {
    "eva_hybrid": Method(
        partial(verify.eva_hybrid, radius=EIGHT_LEVELS, clip=(0, 1)),
        "Hybrid EVA",
        "How much less the other classes can gain when the region keeps its pixels and all others change by up to "
        "8 of 255 grey levels: bounds of the last layer only, on sampled changes, so nothing is proven.",
        cost=3264,
        halves=True,
        smoke=dict(grid=2, num_samples=4),
    ),
    "eva": Method(
        partial(verify.eva, radius=ONE_LEVEL, clip=(0, 1)),
        "EVA",
        "How much less the other classes can be proven to gain when the region keeps its pixels and all others change "
        "by up to 1 of 255 grey levels; refused where the proof is vacuous, as in deep networks not trained for it.",
        cost=100,
        smoke=dict(grid=2),
        radius=ONE_LEVEL,
    ),
    "lipschitz_eva": Method(
        partial(verify.lipschitz_eva, radius=ONE_LEVEL, clip=(0, 1)),
        "Lipschitz EVA",
        "As EVA, with the last layer bounded by how fast it can change instead: for networks whose layers cannot "
        "change fast, refused where the proof is vacuous.",
        cost=101,
        halves=True,
        smoke=dict(grid=2),
        radius=ONE_LEVEL,
    ),
}
ALL = METHODS | BOUNDING
DEFAULT = ("sobol", "integrated_gradients", "smoothgrad", "grad_cam")


def choose(names: Sequence[str]) -> dict[str, Method]:
    """The methods of these names, in this order.

    Raises:
        ValueError: For a name that is not one, with the nearest names, or without names.

    Example:
        >>> list(choose(["rise", "sobol"]))
        ['rise', 'sobol']
        >>> choose(["sobel"])
        Traceback (most recent call last):
        ValueError: there is no method 'sobel'; did you mean sobol or sobol_first? `sparks methods` lists them all
    """
    if not names:
        raise ValueError(f"--methods names no method, expected at least one of {', '.join(ALL)}")
    for name in names:
        if name not in ALL:
            raise ValueError(f"there is no method {name!r}{nearest(name, ALL)} `sparks methods` lists them all")
    return {name: ALL[name] for name in names}


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error sentence: which known names look like this one.

    Example:
        >>> nearest("sobel", ["sobol", "rise"])
        '; did you mean sobol?'
    """
    close = difflib.get_close_matches(name.lower(), list(names), cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ";"


def importance(method: Method, raw: np.ndarray) -> np.ndarray:
    """The importance of each pixel `(h w)`: what the page shows, and what deletion and insertion order by.

    Example:
        >>> importance(METHODS["smoothgrad"], np.array([[[3.0, 0.0, -4.0]]])).tolist()
        [[5.0]]
    """
    return raw if raw.ndim == 2 else np.asarray(images.heatmap(jnp.asarray(raw), method.channels))


def contributions(method: Method, raw: np.ndarray) -> np.ndarray | None:
    """The signed map `(h w)` of a method that has one: the sum over channels.

    Example:
        >>> contributions(METHODS["smoothgrad"], np.array([[[3.0, 0.0, -4.0]]])).tolist()
        [[-1.0]]
    """
    if not method.signed:
        return None
    return raw if raw.ndim == 2 else raw.sum(-1)

"""Explaining large vision models in JAX.

A score is a function from one image to one number. Everything here makes a score, explains a score, bounds a score,
ascends a score, or trains a model whose scores behave.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparks_jax import alignment as alignment
    from sparks_jax import attribution as attribution
    from sparks_jax import concepts as concepts
    from sparks_jax import data as data
    from sparks_jax import designs as designs
    from sparks_jax import featviz as featviz
    from sparks_jax import fourier as fourier
    from sparks_jax import human as human
    from sparks_jax import images as images
    from sparks_jax import jobs as jobs
    from sparks_jax import lens as lens
    from sparks_jax import linalg as linalg
    from sparks_jax import lipschitz as lipschitz
    from sparks_jax import metrics as metrics
    from sparks_jax import models as models
    from sparks_jax import scores as scores
    from sparks_jax import segments as segments
    from sparks_jax import sensitivity as sensitivity
    from sparks_jax import stream as stream
    from sparks_jax import types as types
    from sparks_jax import verify as verify
    from sparks_jax import viz as viz
    from sparks_jax.jobs.evaluate import evaluate as evaluate
    from sparks_jax.jobs.explain import explain as explain
    from sparks_jax.jobs.measure import measure as measure
    from sparks_jax.jobs.visualize import visualize as visualize

__version__ = "0.1.0.dev0"

# Read when first used (PEP 562), so that `sparks --help` does not wait for jax.
_AREAS = {
    *("alignment", "attribution", "concepts", "data", "designs", "featviz", "fourier", "human", "images", "jobs"),
    *("lens", "linalg", "lipschitz", "metrics", "models", "scores", "segments", "sensitivity", "stream", "types"),
    *("verify", "viz"),
}
_JOBS = {"evaluate", "explain", "measure", "visualize"}


def __getattr__(name: str) -> Any:
    if name in _AREAS:
        return importlib.import_module(f"sparks_jax.{name}")
    if name in _JOBS:
        return getattr(importlib.import_module(f"sparks_jax.jobs.{name}"), name)
    raise AttributeError(f"module 'sparks_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_AREAS, *_JOBS})

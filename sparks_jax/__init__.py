"""Explaining large vision models in JAX.

A score is a function from one image to one number. Everything here makes a score, explains a score, bounds a score,
ascends a score, or trains a model whose scores behave.
"""

from sparks_jax import attribution as attribution
from sparks_jax import designs as designs
from sparks_jax import images as images
from sparks_jax import metrics as metrics
from sparks_jax import scores as scores
from sparks_jax import sensitivity as sensitivity
from sparks_jax import stream as stream
from sparks_jax.jobs.explain import explain as explain
from sparks_jax.jobs.explain import measure as measure

__version__ = "0.1.0.dev0"

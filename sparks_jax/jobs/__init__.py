"""Explanations at scale: batches, meshes, progress, reports."""

from sparks_jax.jobs.certified import certified_importance as certified_importance
from sparks_jax.jobs.explain import count_evaluations as count_evaluations
from sparks_jax.jobs.explain import explain as explain
from sparks_jax.jobs.measure import examine as examine
from sparks_jax.jobs.measure import measure as measure

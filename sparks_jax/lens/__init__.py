"""One interactive picture of a whole model: an atlas of its classes, in a folder that a page shows."""

from sparks_jax.lens.build import build as build
from sparks_jax.lens.bundle import check_bundle as check_bundle
from sparks_jax.lens.export import export as export
from sparks_jax.lens.synthetic import synthetic as synthetic

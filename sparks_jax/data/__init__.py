"""Images: photographs of other packages, of the user's folders, digits, glyphs, ClickMe's maps; stored spectra."""

from sparks_jax.data.annotators import annotations as annotations
from sparks_jax.data.digits import digits as digits
from sparks_jax.data.digits import stratified_folds as stratified_folds
from sparks_jax.data.folder import list_images as list_images
from sparks_jax.data.folder import read_image as read_image
from sparks_jax.data.glyphs import Glyphs as Glyphs
from sparks_jax.data.glyphs import glyph as glyph
from sparks_jax.data.glyphs import glyphs as glyphs
from sparks_jax.data.natural import photographs as photographs
from sparks_jax.data.pairs import Pairs as Pairs
from sparks_jax.data.pairs import pair as pair
from sparks_jax.data.pairs import pairs as pairs
from sparks_jax.data.spectra import read_spectrum as read_spectrum

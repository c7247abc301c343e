"""What a model sees: concepts, how much of them there is, and how much they matter."""

from sparks_jax.concepts.dictionary import Dictionary as Dictionary
from sparks_jax.concepts.dictionary import Factorization as Factorization
from sparks_jax.concepts.dictionary import decode as decode
from sparks_jax.concepts.dictionary import encode as encode
from sparks_jax.concepts.encoders import nonnegative as nonnegative
from sparks_jax.concepts.factorize import nmf as nmf

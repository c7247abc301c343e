"""Guarantees: bounds of any JAX function on a set of inputs, and the explanations made of them."""

from sparks_jax.verify.alpha import alpha_crown as alpha_crown
from sparks_jax.verify.crown import crown as crown
from sparks_jax.verify.enclosures import Enclosure as Enclosure
from sparks_jax.verify.enclosures import line as line
from sparks_jax.verify.eva import adversarial_overlap as adversarial_overlap
from sparks_jax.verify.eva import eva as eva
from sparks_jax.verify.eva import eva_hybrid as eva_hybrid
from sparks_jax.verify.eva import lipschitz_eva as lipschitz_eva
from sparks_jax.verify.forward import forward_linear as forward_linear
from sparks_jax.verify.ibp import ibp as ibp
from sparks_jax.verify.lipschitz import lipschitz_bound as lipschitz_bound
from sparks_jax.verify.margins import linear_tail as linear_tail
from sparks_jax.verify.margins import margins as margins
from sparks_jax.verify.regions import ball as ball
from sparks_jax.verify.regions import l2_ball as l2_ball
from sparks_jax.verify.report import report as report
from sparks_jax.verify.rules import UnsupportedPrimitive as UnsupportedPrimitive

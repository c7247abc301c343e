"""Whether to trust an explanation: every metric gives one value per image, and says its direction."""

from sparks_jax.metrics.faithfulness import Curve as Curve
from sparks_jax.metrics.faithfulness import deletion as deletion
from sparks_jax.metrics.faithfulness import insertion as insertion

# Whether a larger value of a metric means a better explanation.
HIGHER_IS_BETTER = {"deletion": False, "insertion": True}

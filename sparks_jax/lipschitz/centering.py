r"""Centring: what is left of normalisation when nothing may be divided by."""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from sparks_jax.lipschitz.bounds import One, UnknownBound, one


class BatchCentering(nnx.Module):
    r"""Less the mean of each channel over the batch, plus a bias: $y = x - \mathbb{E}[x] + \beta$.

    With the running mean, as by default, a translation: 1-Lipschitz. In training, that is after
    `nnx.view(model, use_running_average=False)`, the mean of the batch; the running mean is then updated in place, as
    that of `nnx.BatchNorm` is, and has the same type of variable.

    Reference:
        Serrurier et al. 2023, On the explainable properties of 1-Lipschitz neural networks: an optimal transport
        perspective, arXiv:2206.06854.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        use_bias: bool = True,
        use_running_average: bool = True,
        axis_name: str | None = None,
    ):
        """Start at mean 0.

        Args:
            features: Channels.
            momentum: Weight of the old mean.
            use_bias: Whether a bias is added.
            use_running_average: Whether the running mean is used, not that of the batch.
            axis_name: Axis of the mesh over which the batch is spread, inside of `jax.shard_map`; under `jax.jit` the
                mean is global by itself.
        """
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.bias = nnx.Param(jnp.zeros(features)) if use_bias else None
        self.momentum, self.use_running_average, self.axis_name = momentum, use_running_average, axis_name

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Centre a batch."""
        if self.use_running_average:
            mean = self.mean[...]
        else:
            mean = x.astype(jnp.float32).mean(tuple(range(x.ndim - 1)))
            mean = mean if self.axis_name is None else lax.pmean(mean, self.axis_name)
            old = self.mean[...]
            self.mean[...] = self.momentum * old + (1 - self.momentum) * lax.stop_gradient(mean)
        shift = mean if self.bias is None else mean - self.bias[...]
        return x - jnp.broadcast_to(shift.astype(x.dtype), x.shape)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What `nnx.view` calls."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def lipschitz(self) -> Float[Array, ""]:
        """1, with the running mean."""
        if not self.use_running_average:
            raise UnknownBound(
                "BatchCentering: a mean over a batch mixes images; certify with use_running_average=True"
            )
        return one()

    def stock(self) -> nnx.BatchNorm:
        """The Flax layer that does the same with the running mean: a normalisation by 1."""
        norm = nnx.BatchNorm(
            self.mean.shape[0],
            use_running_average=True,
            epsilon=0.0,
            use_scale=False,
            use_bias=self.bias is not None,
            rngs=nnx.Rngs(0),
        )
        norm.mean[...] = self.mean[...]
        if self.bias is not None:
            norm.bias = nnx.Param(self.bias[...])
        return norm


class LayerCentering(One):
    r"""Less the mean of each channel over the image: $y_{ijc} = x_{ijc} - \frac1{hw} \sum x_{i'j'c}$, a projection.

    Reference:
        Serrurier et al. 2023, arXiv:2206.06854.
    """

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Centre each image."""
        return x - x.mean((1, 2), keepdims=True)

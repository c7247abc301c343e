"""The gradient family on images: the functions of `sensitivity`, with the error messages of an image."""

from sparks_jax import sensitivity
from sparks_jax.images import for_images

saliency = for_images(sensitivity.saliency)
gradient = for_images(sensitivity.gradient)
gradient_input = for_images(sensitivity.gradient_input)
integrated_gradients = for_images(sensitivity.integrated_gradients)
smoothgrad = for_images(sensitivity.smoothgrad)
squaregrad = for_images(sensitivity.squaregrad)
vargrad = for_images(sensitivity.vargrad)

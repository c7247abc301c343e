"""Looking where people look: losses that teach a network to, and how far its maps agree with theirs."""

from sparks_jax.alignment.agreement import INTER_HUMAN as INTER_HUMAN
from sparks_jax.alignment.agreement import Alignment as Alignment
from sparks_jax.alignment.agreement import alignment as alignment
from sparks_jax.alignment.agreement import centre_map as centre_map
from sparks_jax.alignment.agreement import dice as dice
from sparks_jax.alignment.agreement import human_alignment as human_alignment
from sparks_jax.alignment.agreement import iou as iou
from sparks_jax.alignment.agreement import one_against_others as one_against_others
from sparks_jax.alignment.agreement import split_half as split_half
from sparks_jax.alignment.harmonizer import cosine_loss as cosine_loss
from sparks_jax.alignment.harmonizer import cross_entropy_loss as cross_entropy_loss
from sparks_jax.alignment.harmonizer import explanations as explanations
from sparks_jax.alignment.harmonizer import gaussian_pyramid as gaussian_pyramid
from sparks_jax.alignment.harmonizer import harmonizer_loss as harmonizer_loss
from sparks_jax.alignment.harmonizer import harmonizer_loss_as_written as harmonizer_loss_as_written
from sparks_jax.alignment.harmonizer import logits_and_saliency as logits_and_saliency
from sparks_jax.alignment.harmonizer import over_batch as over_batch
from sparks_jax.alignment.harmonizer import over_maps as over_maps
from sparks_jax.alignment.harmonizer import standardize_and_cut as standardize_and_cut

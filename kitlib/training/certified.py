"""Training towards proofs: losses to call in a train_step, and their schedule. All in pixels, L-inf."""
from __future__ import annotations

from typing import Annotated

import pydantic
import tensorflow as tf

from kitlib.base.settings import Epsilon, Settings
from kitlib.certify.bounds import margins
from kitlib.certify.graph import open_model
from kitlib.certify.interval import input_set

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class Schedule(Settings):
    """How eps and the weights of the losses move over a training (Gowal et al. 2018, section 4; Zhang et al. 2020,
    section 4.1).

    warm_up: share of the training on clean images alone; ramp: share in which eps rises from 0 to `eps`, kappa (weight
    of the clean loss) falls from 1 to `kappa`, and beta (weight of linear against interval bounds) from 1 to `beta`.
    """

    eps: Epsilon
    warm_up: Share = 0.05
    ramp: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    kappa: Share = 0.5
    beta: Share = 0.0

    def at(self, done):
        """eps, kappa and beta where the share `done` of the training (a number or tensor of 0 to 1) is behind us."""
        risen = tf.clip_by_value((tf.cast(done, tf.float32) - self.warm_up) / self.ramp, 0.0, 1.0)
        return risen * self.eps, 1 - risen * (1 - self.kappa), 1 - risen * (1 - self.beta)


@tf.autograph.experimental.do_not_convert      # nothing to convert
def worst_case_logits(model, images, labels, eps, beta=0.0) -> tf.Tensor:
    """The logits that no attack within eps can make worse, N x classes, up to a constant a row: 0 for the label, and
    for each other class how much it can be ahead at most. The label's is the largest where the image is proved.

    beta: weight of linear bounds (CROWN-IBP) against interval bounds; the number 0 leaves the linear ones out. Their
    gradient needs a tf.function: TensorFlow cannot differentiate a convolution's transpose eagerly. Batch norm counts
    with its moving statistics. Raises KitError for a layer that no bounds are known for.
    """
    nodes, space = open_model(model), input_set(images, eps, "linf", unit=0.0)
    interval = margins("ibp", nodes, space, labels)
    if isinstance(beta, int | float) and beta == 0:
        return -interval
    return -(beta * margins("crown_ibp", nodes, space, labels, intersect=False) + (1 - beta) * interval)


@tf.autograph.experimental.do_not_convert
def certified_loss(model, images, labels, eps, kappa, beta=0.0, training: bool = True) -> tf.Tensor:
    """kappa x the clean cross-entropy + (1 - kappa) x that of the worst case, one an image: IBP training with beta 0
    (Gowal et al. 2018, arXiv:1810.12715), CROWN-IBP (Zhang et al. 2020, arXiv:1906.06316) with a schedule's."""
    def cross_entropy(logits):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    clean = cross_entropy(tf.cast(model(images, training=training), tf.float32))
    return kappa * clean + (1 - kappa) * cross_entropy(worst_case_logits(model, images, labels, eps, beta))


def with_noise(images, sigma, seed) -> tf.Tensor:
    """The images with Gaussian noise, to train what will be smoothed (Cohen et al. 2019, section 3.3); not clipped.
    seed: int32 [2], another in every step."""
    return images + sigma * tf.random.stateless_normal(tf.shape(images), seed)

"""One perturbation, or one patch, for all images at once."""
from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from kitlib.attacks.base import input_gradient, logits_of, loss_of
from kitlib.attacks.checks import check_images, check_labels, check_model
from kitlib.base.settings import KitError
from kitlib.models import exact_float32

ENOUGH = 9.0    # cross-entropy beyond which an image counts no more (Shafahi et al. 2018, section 3)


@dataclasses.dataclass(frozen=True)
class Universal:
    """pattern: float32, H x W x C. eps: it is added, its entries from -eps to eps; None: a patch, which covers what
    lies under it."""

    pattern: np.ndarray
    eps: float | None = None

    def apply(self, images: np.ndarray, seed: int = 0) -> np.ndarray:
        """The images with it, float32 like them; a patch smaller than they are lies at a random place of each."""
        if self.eps is not None:
            return np.clip(images + self.pattern, 0, 1)
        changed, (height, width) = np.array(images, np.float32), self.pattern.shape[:2]
        for image, (top, left) in zip(changed, places(images.shape, height, width, seed), strict=True):
            image[top : top + height, left : left + width] = self.pattern
        return changed


def places(shape, height: int, width: int, seed) -> np.ndarray:
    """A random upper left corner for each image, int N x 2, so that height x width pixels fit into it."""
    return np.random.default_rng(seed).integers(0, (shape[1] - height + 1, shape[2] - width + 1), (shape[0], 2))


@exact_float32()
def universal(model, images, labels, *, eps: float | None = None, patch: tuple[int, int] | None = None,
              target: int | None = None, epochs: int = 10, batch_size: int = 128,
              seed: int = 0, progress: bool = False, input_range: tuple[float, float] | None = None) -> Universal:
    """One pattern that fools the model on as many of the images as it can; try it on others.

    eps: a perturbation within this L-inf radius for all (Moosavi-Dezfooli et al. 2017, arXiv:1610.08401), by steps
    along the sign of the mean gradient of the clipped cross-entropy (Shafahi et al. 2018, arXiv:1811.11304, section
    3). patch: height and width of a patch, put at a random place of each image in each step (Brown et al. 2017,
    arXiv:1712.09665). One of both. target: the class to be named; None: any but the label. A step is a
    tenth of eps; of a patch 0.05. images, labels, model, input_range: as for `attacks.run`.
    Raises KitError as that does, and where neither or both are asked for, or a patch is larger than an image.
    """
    images = check_images(np.asarray(images), "images")
    ready, classes = check_model(model, images, labels, input_range)
    labels = check_labels(labels, len(images), classes, False, "labels")
    if target is not None:
        labels = check_labels(np.full(len(images), target), len(images), classes, True, "target")
    shape = _shape(images, eps, patch)
    rng, order = np.random.default_rng(seed), np.arange(len(images))
    pattern = np.full(shape, 0.5 if patch else 0.0, np.float32)
    low, high, step = (0.0, 1.0, 0.05) if eps is None else (-eps, eps, eps / 10)
    ascend = _ascent(ready, patch, target is not None)
    for _ in tqdm(range(epochs), desc="universal", unit="epoch", disable=not progress):
        rng.shuffle(order)
        for rows in np.array_split(order, -(-len(order) // batch_size)):
            corners = places(images[rows].shape, shape[0], shape[1], rng)
            direction = ascend(tf.constant(pattern), images[rows], labels[rows], corners)
            pattern = np.clip(pattern + np.float32(step) * direction.numpy(), low, high)
    return Universal(pattern, None if patch else eps)


def _shape(images: np.ndarray, eps, patch) -> tuple[int, ...]:
    if (eps is None) == (patch is None):
        raise KitError("universal: give eps for a perturbation, or patch=(height, width)")
    if eps is not None and not 0 < eps <= 1:
        raise KitError(f"universal: eps is in pixels, above 0 and at most 1, not {eps}")
    shape = (*(patch or images.shape[1:3]), images.shape[3])
    if not all(0 < part <= whole for part, whole in zip(shape, images.shape[1:], strict=True)):
        raise KitError(f"a patch of {patch} does not fit into images of {images.shape[1:3]} pixels")
    return shape


def _ascent(model, patch, targeted: bool):
    """The sign of the gradient of the mean loss for the pattern, compiled."""
    model_fn = logits_of(model)

    def loss_fn(labels, logits):
        return loss_of("ce", labels, logits) if targeted else tf.minimum(loss_of("ce", labels, logits), ENOUGH)

    def shown(pattern, images, corners):
        if not patch:
            return tf.clip_by_value(images + pattern, 0.0, 1.0)
        covering = tf.concat([pattern, tf.ones_like(pattern[..., :1])], -1)
        placed = tf.map_fn(lambda corner: _placed(covering, corner, images.shape[1:3]), corners,
                           fn_output_signature=tf.float32)
        return tf.where(placed[..., -1:] > 0, placed[..., :-1], images)

    @tf.function(autograph=False, reduce_retracing=True)
    def ascend(pattern, images, labels, corners):
        return tf.sign(input_gradient(lambda given: model_fn(shown(given, images, corners)), loss_fn, pattern, labels,
                                      targeted))

    return ascend


def _placed(pattern, corner, size) -> tf.Tensor:
    """The pattern at a corner of a canvas of that size, zero elsewhere."""
    height, width = pattern.shape[:2]
    below, right = size[0] - height - corner[0], size[1] - width - corner[1]
    return tf.pad(pattern, [[corner[0], below], [corner[1], right], [0, 0]])


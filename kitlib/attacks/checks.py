"""What an attack refuses, said clearly."""
from __future__ import annotations

import keras
import numpy as np

from kitlib.attacks.base import Attack
from kitlib.attacks.limits import is_8_bit
from kitlib.base.settings import KitError, first_line
from kitlib.models import NOT_FINITE, pixels_to_logits
from kitlib.models.wiring import LOGITS_NEEDED


def check_images(images: np.ndarray, where: str) -> np.ndarray:
    """`images` as float32, N x H x W x C with at least one image and values in [0, 1].

    Raises KitError otherwise.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise KitError(f"{where}: images must be N x H x W x C, but their shape is {images.shape}")
    if 0 in images.shape:
        raise KitError(f"{where}: there is no pixel in images of shape {images.shape}")
    if not np.issubdtype(images.dtype, np.floating):
        raise KitError(f"{where}: images must be floats in [0, 1], not {images.dtype}; divide by 255")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise KitError(f"{where}: pixels must lie in [0, 1], but they reach from {low:.4g} to {high:.4g}")
    return images.astype(np.float32, copy=False)


def check_labels(labels, count: int, classes: int, targeted: bool, where: str) -> np.ndarray:
    """`labels` as int32 of shape (count,), each one of the model's `classes`. Raises KitError otherwise."""
    what = "targets" if targeted else "labels"
    if labels is None:
        purpose = "a targeted attack needs them" if targeted else "accuracy is judged against them"
        raise KitError(f"{where}: {what} are missing, and {purpose}")
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise KitError(f"{where}: {what} must have the shape ({count},), one an image, not {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise KitError(f"{where}: {what} must be integers, but they are {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise KitError(f"{where}: {what} reach from {labels.min()} to {labels.max()}, but the model has "
                       f"{classes} classes (0 to {classes - 1})")
    return labels.astype(np.int32)


def check_mask(attack: Attack, mask, images: np.ndarray, first: int) -> np.ndarray | None:
    """The mask of these images, bool N x H x W, or None: `mask`, else the attack's own.

    images: those from number `first` on. Raises KitError for a mask that does not fit them, and for a rounded attack
    within an L2 distance of images that are not in whole n/255: what is nearest to them in 8 bits may lie outside.
    """
    if attack.round and getattr(attack, "norm", "") == "l2" and hasattr(attack, "eps") and not is_8_bit(images):
        raise KitError(f"{attack}: in L2, 'round' needs images in whole n/255: round them first")
    if mask is None:
        mask = None if attack.mask is None else attack.mask.mask(*images.shape[1:3])
    elif (mask := np.asarray(mask)).dtype != bool or mask.shape[-2:] != images.shape[1:3] or mask.ndim not in (2, 3):
        raise KitError(f"a mask must be bool, {images.shape[1]} x {images.shape[2]} or one such an image, not "
                       f"{mask.dtype} of shape {mask.shape}")
    if mask is None or mask.ndim == 2:
        return None if mask is None else np.broadcast_to(mask, images.shape[:3])
    if len(mask := mask[first : first + len(images)]) != len(images):
        raise KitError(f"there are masks for {first + len(mask)} images only, and there are more images")
    return mask


def check_model(model, images: np.ndarray, labels=None, input_range=None):
    """A model from `images` (pixels, of which a few are looked at) to logits, and its number of classes.

    labels, input_range: as for `models.pixels_to_logits`, which reads what the model takes and returns.
    Raises KitError when the model does not take such images, does not return one row of at least two
    numbers an image, or is code that returns probabilities (rows that sum to one).
    """
    for taken in getattr(model, "inputs", None) or ():
        if not keras.backend.is_float_dtype(taken.dtype):
            raise KitError(f"the model takes {taken.dtype}, in which pixels from 0 to 1 would all be 0 or 1: give it "
                           "an input of floats in that range")
    if np.shape(labels) != (len(images),) or not np.issubdtype(np.asarray(labels).dtype, np.integer) or min(labels) < 0:
        labels = None       # `check_labels` will say why
    ready, some = pixels_to_logits(model, images, labels, input_range), images[:8]
    try:
        logits = np.asarray(ready(some, training=False), dtype=np.float32)
    except Exception as error:  # whatever a layer raises
        raise KitError(f"the model does not take images of shape {images.shape[1:]}: {first_line(error)}") from None
    if logits.ndim != 2 or logits.shape[0] != len(some) or logits.shape[1] < 2:
        raise KitError(f"the model must return one row of logits an image, two or more classes wide, but "
                       f"for {len(some)} images it returns the shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise KitError(NOT_FINITE)
    if (logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=1e-4):
        raise KitError(f"the model's outputs are not negative and sum to one: probabilities; {LOGITS_NEEDED}")
    return ready, logits.shape[1]
